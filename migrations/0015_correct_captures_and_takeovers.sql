-- What reviews have found in snapshots, captures and their views.

ALTER TABLE snapshot_job ADD CONSTRAINT snapshot_job_failing_check CHECK (failing IN ('ours', 'disk', 'theirs'));
COMMENT ON COLUMN snapshot_job.failing IS 'That cause; NULL for a capture, whose failures are counted together.';

-- Lost runners ----------------------------------------------------------------------------------------------------

-- Whether its image is all that there is of what does not run: its runner was to let go of it, or has had no container of it
-- since it was placed there, and is not about to make one.
CREATE FUNCTION image_has_all_files(asked sandbox, seen sandbox_status) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT asked.archive_ready OR seen.state = 'stopped' AND seen.container_id IS NULL AND seen.observed_generation >= asked.generation
$$;

-- As before; and what is its image is archived too. (Compiling the query takes longer than running it.)
CREATE OR REPLACE FUNCTION reclaim_orphans(most integer) RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET jit = off AS $$
DECLARE
    me uuid := require_runner();
    my_region text := (SELECT region_id FROM runner WHERE id = me);
    held timestamptz := (SELECT held_since FROM runner_lease WHERE runner_id = me);
    lost uuid[] := ARRAY(SELECT l.runner_id FROM runner_lease l CROSS JOIN region g WHERE g.id = my_region AND l.runner_id <> me
        AND greatest(l.expires_at, held) < now() - make_interval(secs => g.grace_seconds));
    wanted sandbox;
BEGIN
    IF cardinality(lost) = 0 THEN
        RETURN;
    END IF;
    -- The status too: a report that is under way has it locked, and is about to lock the placement.
    FOR wanted IN
        SELECT s.* FROM sandbox s JOIN sandbox_placement p ON p.sandbox_id = s.id JOIN sandbox_status t ON t.sandbox_id = s.id
            CROSS JOIN runner_healthy h JOIN runner_load d ON d.runner_id = h.id
        WHERE h.id = me AND p.runner_id = ANY (lost) AND s.region_id = my_region
            AND CASE s.desired_state WHEN 'destroyed' THEN true WHEN 'started' THEN has_room(h, d, s)
                ELSE s.auto_delete_minutes <> 0 AND (image_has_all_files(s, t) OR EXISTS (SELECT FROM complete_backup(s.id))) END
        ORDER BY s.created_at LIMIT most FOR UPDATE OF s, t, p SKIP LOCKED
    LOOP
        CASE wanted.desired_state
        WHEN 'destroyed' THEN
            PERFORM set_config('martlet.cause', 'its runner''s lease expired; what is left there is removed when it comes back', true);
            DELETE FROM sandbox_placement WHERE sandbox_id = wanted.id;
            UPDATE sandbox SET destroyed_at = now() WHERE id = wanted.id;
        WHEN 'started' THEN
            IF book(wanted, me) THEN
                PERFORM record_event('sandbox.reclaimed', id, organization_id, NULL, 'creating', 'its runner''s lease expired; it starts '
                    || 'anew from its ' || CASE WHEN restored THEN 'backup' ELSE 'snapshot' END) FROM sandbox WHERE id = wanted.id;
                RETURN NEXT wanted.id;
            END IF;
        ELSE
            PERFORM archive_orphan(wanted.id);
        END CASE;
    END LOOP;
END
$$;

-- The sandbox is locked, and its status.
CREATE OR REPLACE FUNCTION archive_orphan(target uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    made snapshot;
    kept_by text;
BEGIN
    SELECT * INTO made FROM complete_backup(target);
    IF FOUND THEN
        -- Locked, so that its image is nobody's garbage before it is the sandbox's. One that is making way is not waited for, since
        -- who removes it may be waiting for the sandbox: the next turn finds a newer one.
        PERFORM FROM snapshot WHERE id = made.id FOR KEY SHARE SKIP LOCKED;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        kept_by := format('its backup of %s', made.captured_at);
    ELSIF EXISTS (SELECT FROM sandbox s JOIN sandbox_status t ON t.sandbox_id = s.id WHERE s.id = target AND image_has_all_files(s, t)) THEN
        kept_by := 'its image';
    ELSE
        RETURN;
    END IF;
    PERFORM set_config('martlet.cause', format('its runner''s lease expired; %s has all of its files', kept_by), true);
    UPDATE sandbox SET desired_state = 'archived', image = coalesce(made.image, image),
        architecture = coalesce(made.architecture, architecture), restored = restored OR made.id IS NOT NULL WHERE id = target;
    DELETE FROM sandbox_placement WHERE sandbox_id = target;
END
$$;

-- As before, in the order in which captures lock.
CREATE OR REPLACE FUNCTION restore_lost(target uuid, held_epoch bigint, lost_container text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    -- One of them may be making way for a newer one, by who is about to lock the sandbox.
    PERFORM FROM snapshot WHERE source_sandbox_id = target AND purpose = 'backup' AND image IS NOT NULL FOR KEY SHARE;
    PERFORM FROM sandbox WHERE id = target FOR NO KEY UPDATE;
    PERFORM FROM sandbox_placement WHERE sandbox_id = target AND runner_id = require_runner() AND epoch = held_epoch;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE sandbox_status SET container_id = NULL WHERE sandbox_id = target AND container_id = lost_container;
    RETURN FOUND AND restore_from_backup(target);
END
$$;

-- Time ------------------------------------------------------------------------------------------------------------

-- As before; one that pauses after a failure keeps no other from its place.
CREATE OR REPLACE FUNCTION backups_due(ids uuid[]) RETURNS TABLE (sandbox_id uuid, organization_id uuid, generation bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH waiting AS (
        SELECT w.organization_id, count(*) AS backups FROM snapshot_job j JOIN snapshot w ON w.id = j.snapshot_id
        WHERE w.purpose = 'backup' AND j.not_before <= now() GROUP BY w.organization_id
    ), due AS (
        SELECT s.id, s.organization_id, s.generation,
            row_number() OVER (PARTITION BY s.organization_id ORDER BY coalesce(last.taken_at, s.created_at)) AS place
        FROM (SELECT DISTINCT unnest(ids) AS id) AS looked_at
            JOIN sandbox_status t ON t.sandbox_id = looked_at.id JOIN sandbox s ON s.id = t.sandbox_id
            JOIN organization o ON o.id = s.organization_id
            JOIN sandbox_placement p ON p.sandbox_id = s.id
            JOIN runner_lease l ON l.runner_id = p.runner_id AND l.expires_at > now()
            LEFT JOIN sandbox_activity a ON a.sandbox_id = s.id
            LEFT JOIN LATERAL (SELECT max(b.captured_at) FILTER (WHERE b.image IS NOT NULL AND b.source_epoch = p.epoch) AS taken_at,
                    bool_or(b.state IN ('pending', 'snapshotting') OR b.state = 'error' AND b.updated_at > now() - interval '1 hour') AS rests
                FROM snapshot b WHERE b.source_sandbox_id = s.id AND b.purpose = 'backup') AS last ON true
        WHERE s.auto_delete_minutes <> 0 AND last.rests IS NOT TRUE
            AND (o.backup_on_stop AND s.desired_state = 'stopped' AND t.state = 'stopped'
                    AND coalesce(last.taken_at, '-infinity') <= t.state_changed_at
                OR o.backup_minutes > 0 AND s.desired_state = 'started' AND t.state = 'started'
                    AND coalesce(last.taken_at, t.started_at) < now() - make_interval(mins => o.backup_minutes)
                    AND coalesce(last.taken_at, '-infinity') < greatest(a.last_activity_at, t.started_at)))
    SELECT due.id, due.organization_id, due.generation FROM due LEFT JOIN waiting USING (organization_id)
    WHERE due.place + coalesce(waiting.backups, 0) <= waiting_backups_limit()
    ORDER BY due.place + coalesce(waiting.backups, 0)
    LIMIT greatest(0, all_waiting_backups_limit() - (SELECT coalesce(sum(backups), 0) FROM waiting))
$$;

-- Readers ---------------------------------------------------------------------------------------------------------

-- As before; and which of its volumes its runner has not mounted.
CREATE OR REPLACE VIEW stuck_sandboxes AS
    SELECT v.id, v.name, v.state, v.desired_state AS wanted, now() - greatest(v.state_changed_at, s.desired_changed_at) AS for_how_long,
        CASE WHEN starts_with(v.image, 'pending:') THEN coalesce(v.error_reason, 'its image is being made: see view snapshots')
             WHEN v.runner_id IS NULL THEN 'no runner of region ' || v.region_id || ' has room'
                || CASE WHEN s.volumes = '[]' THEN '' ELSE ' and mounts volumes' END || ': see view runners'
             WHEN v.state = 'unknown' THEN 'its runner is unreachable: see view runners'
             WHEN v.state = 'error' THEN v.error_reason
             WHEN v.state = 'archiving' AND b.state <> 'Completed' THEN 'it is being backed up: see view snapshots'
             WHEN w.volumes IS NOT NULL THEN 'it waits for volumes (' || w.volumes || '): see view volumes'
             ELSE 'its runner has not got it from ' || t.state || ' to ' || v.desired_state || ' yet: see that runner''s log' END AS why,
        r.name AS runner
    FROM sandbox_view v JOIN sandbox s ON s.id = v.id LEFT JOIN sandbox_status t ON t.sandbox_id = v.id LEFT JOIN runner r ON r.id = v.runner_id
        LEFT JOIN sandbox_backup b ON b.sandbox_id = v.id
        LEFT JOIN LATERAL (
            SELECT string_agg(DISTINCT format('%s: %s%s', o.name, coalesce(m.state, 'not mounted'), ', ' || m.problem), '; ') AS volumes
                FROM jsonb_array_elements(s.volumes) AS entry JOIN volume o ON o.id = (entry->>'volumeId')::uuid
                    LEFT JOIN volume_mount m ON m.volume_id = o.id AND m.runner_id = v.runner_id
                WHERE s.desired_state = 'started' AND t.state <> 'started' AND m.state IS DISTINCT FROM 'mounted') AS w ON true
    WHERE v.destroyed_at IS NULL AND v.state <> v.desired_state AND v.state NOT IN ('snapshotting', 'forking')
        AND coalesce(greatest(v.state_changed_at, s.desired_changed_at), s.created_at) < now() - interval '30 seconds';
