-- Images of sandboxes: a snapshot that is made of one, its backup, and what a fork starts from. All are snapshots whose job is
-- of kind "capture", which only the runner that holds the sandbox can do. An archived sandbox is its backup and no placement.

ALTER TABLE snapshot
    ADD COLUMN purpose text CHECK (purpose IN ('snapshot', 'backup', 'fork')),
    ADD COLUMN source_sandbox_id uuid REFERENCES sandbox (id) ON DELETE SET NULL,
    ADD COLUMN source_epoch bigint,
    ADD COLUMN captured_at timestamptz;
COMMENT ON COLUMN snapshot.purpose IS 'What a sandbox was captured for; NULL for what is pulled, built or given. Backups and forks are hidden; housekeep_captures() deletes backups that nobody needs.';
COMMENT ON COLUMN snapshot.source_sandbox_id IS 'The sandbox that it is, or is to be, an image of.';
COMMENT ON COLUMN snapshot.source_epoch IS 'The placement that was captured: under another one its files are others.';
COMMENT ON COLUMN snapshot.captured_at IS 'Just before its runner began to read the files.';
CREATE INDEX snapshot_by_source ON snapshot (source_sandbox_id, created_at) WHERE source_sandbox_id IS NOT NULL;

ALTER TABLE snapshot_job DROP CONSTRAINT snapshot_job_kind_check,
    ADD CONSTRAINT snapshot_job_kind_check CHECK (kind IN ('pull', 'build', 'capture'));

ALTER TABLE sandbox DROP CONSTRAINT sandbox_desired_state_check,
    ADD CONSTRAINT sandbox_desired_state_check CHECK (desired_state IN ('started', 'stopped', 'archived', 'destroyed')),
    ADD COLUMN parent_id uuid REFERENCES sandbox (id) ON DELETE SET NULL,
    ADD COLUMN capturing text CHECK (capturing IN ('snapshotting', 'forking')),
    ADD COLUMN restored boolean NOT NULL DEFAULT false,
    ADD COLUMN archive_ready boolean NOT NULL DEFAULT false,
    ADD COLUMN last_epoch bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN sandbox.desired_state IS 'UPDATE this to start, stop, archive or destroy a sandbox; its runner acts within a second.';
COMMENT ON COLUMN sandbox.parent_id IS 'The sandbox that it was forked from.';
COMMENT ON COLUMN sandbox.capturing IS 'What its owner waits for meanwhile. Written by a trigger on snapshot.';
COMMENT ON COLUMN sandbox.restored IS 'Its image is a backup of its own.';
COMMENT ON COLUMN sandbox.last_epoch IS 'Of its last placement that has ended: the next one goes on from there, so that no container of an old one is taken for its own. Written by a trigger on sandbox_placement.';
COMMENT ON COLUMN sandbox.archive_ready IS 'It is to be archived, and its image is a backup that is newer than its last run: its runner lets go of it. Written by advance_archive().';
CREATE INDEX sandbox_by_parent ON sandbox (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX archived_to_delete ON sandbox ((desired_changed_at AT TIME ZONE 'UTC' + make_interval(mins => auto_delete_minutes)))
    WHERE desired_state = 'archived' AND auto_delete_minutes >= 0;
CREATE INDEX sandbox_status_stopped ON sandbox_status (state_changed_at) WHERE state = 'stopped';
CREATE INDEX backup_of_nobody ON snapshot (id) WHERE purpose = 'backup' AND source_sandbox_id IS NULL;

ALTER TABLE organization
    ADD COLUMN backup_on_stop boolean NOT NULL DEFAULT false,
    ADD COLUMN backup_minutes integer NOT NULL DEFAULT 0 CHECK (backup_minutes >= 0);
COMMENT ON COLUMN organization.backup_on_stop IS 'Whether its sandboxes are backed up when they have stopped.';
COMMENT ON COLUMN organization.backup_minutes IS 'Sandboxes that are in use are backed up so often; 0 means never.';

-- Captures --------------------------------------------------------------------------------------------------------

CREATE FUNCTION capture_begins() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.state := 'pending';
    RETURN NEW;
END
$$;
CREATE TRIGGER c_capture_begins BEFORE INSERT ON snapshot
    FOR EACH ROW WHEN (NEW.purpose IS NOT NULL AND NEW.image IS NULL) EXECUTE FUNCTION capture_begins();

-- One that failed is activated: it is made of what the sandbox is now.
CREATE FUNCTION capture_begins_again() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    SELECT p.epoch INTO NEW.source_epoch FROM sandbox_placement p JOIN sandbox s ON s.id = p.sandbox_id
        WHERE p.sandbox_id = NEW.source_sandbox_id AND s.desired_state <> 'destroyed' AND NOT s.archive_ready;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the snapshot has no image, and the sandbox that it was to be made of is on no runner any more'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'captured_sandbox_is_there',
                HINT = 'Delete the snapshot, and make another one.';
    END IF;
    NEW.state := 'pending';
    RETURN NEW;
END
$$;
CREATE TRIGGER c_capture_begins_again BEFORE UPDATE ON snapshot
    FOR EACH ROW WHEN (NEW.purpose IS NOT NULL AND NEW.image IS NULL AND NEW.state = 'active')
    EXECUTE FUNCTION capture_begins_again();

CREATE FUNCTION capture_is_a_job() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM snapshot WHERE id = NEW.snapshot_id AND purpose IS NOT NULL) THEN
        NEW.kind := 'capture';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER capture_is_a_job BEFORE INSERT ON snapshot_job FOR EACH ROW EXECUTE FUNCTION capture_is_a_job();

-- A snapshot is locked before its sandbox, here and everywhere.
CREATE FUNCTION capture_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    its snapshot := CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
BEGIN
    IF its.purpose = 'backup' THEN
        -- The newest one is kept, and what says how the newest try went.
        IF TG_OP = 'INSERT' THEN
            DELETE FROM snapshot WHERE source_sandbox_id = its.source_sandbox_id AND purpose = 'backup' AND state = 'error';
        ELSIF TG_OP = 'UPDATE' AND its.image IS NOT NULL THEN
            DELETE FROM snapshot WHERE source_sandbox_id = its.source_sandbox_id AND purpose = 'backup' AND captured_at < its.captured_at
                AND state NOT IN ('pending', 'snapshotting');
            -- Whoever takes it over starts from these files.
            UPDATE sandbox SET architecture = its.architecture WHERE id = its.source_sandbox_id AND architecture IS NULL;
        END IF;
    ELSE
        PERFORM show_capture(its.source_sandbox_id);
    END IF;
    PERFORM advance_archive(its.source_sandbox_id);
    PERFORM pg_notify('status', its.source_sandbox_id::text);
    RETURN NULL;
END
$$;
CREATE TRIGGER capture_inserted AFTER INSERT ON snapshot
    FOR EACH ROW WHEN (NEW.source_sandbox_id IS NOT NULL) EXECUTE FUNCTION capture_changed();
CREATE TRIGGER capture_changed AFTER UPDATE ON snapshot
    FOR EACH ROW WHEN (NEW.source_sandbox_id IS NOT NULL AND NEW.state <> OLD.state) EXECUTE FUNCTION capture_changed();
CREATE TRIGGER capture_deleted AFTER DELETE ON snapshot
    FOR EACH ROW WHEN (OLD.source_sandbox_id IS NOT NULL) EXECUTE FUNCTION capture_changed();

CREATE FUNCTION show_capture(target uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    before sandbox;
    shown text;
    at_rest text;
BEGIN
    SELECT * INTO before FROM sandbox WHERE id = target FOR NO KEY UPDATE;
    SELECT CASE purpose WHEN 'fork' THEN 'forking' ELSE 'snapshotting' END INTO shown FROM snapshot
        WHERE source_sandbox_id = target AND purpose <> 'backup' AND state IN ('pending', 'snapshotting') ORDER BY created_at LIMIT 1;
    IF before.id IS NULL OR before.capturing IS NOT DISTINCT FROM shown THEN
        RETURN;
    END IF;
    UPDATE sandbox SET capturing = shown WHERE id = target;
    SELECT state INTO at_rest FROM sandbox_status WHERE sandbox_id = target;
    PERFORM record_event('sandbox.state.updated', target, before.organization_id, coalesce(before.capturing, at_rest),
        coalesce(shown, at_rest), NULL);
END
$$;

-- Api: the snapshot that the sandbox is to be captured in, as its owner asks; NULL when it is not as expected any more: read it
-- again. A backup, or an image to fork from, that is still to be made serves whoever asks next too.
CREATE FUNCTION request_capture(target uuid, owner uuid, expected_generation bigint, wanted_purpose text, wanted_name text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    source sandbox;
    made uuid;
    its_epoch bigint;
BEGIN
    SELECT * INTO source FROM sandbox
        WHERE id = target AND organization_id = owner AND generation = expected_generation AND desired_state <> 'destroyed'
        FOR NO KEY UPDATE;
    SELECT epoch INTO its_epoch FROM sandbox_placement WHERE sandbox_id = source.id;
    IF NOT FOUND OR wanted_purpose <> 'backup' AND source.capturing IS NOT NULL
            AND NOT (wanted_purpose = 'fork' AND source.capturing = 'forking') THEN
        RETURN NULL;
    END IF;
    IF wanted_purpose <> 'snapshot' THEN
        SELECT id INTO made FROM snapshot
            WHERE source_sandbox_id = target AND purpose = wanted_purpose AND source_epoch = its_epoch AND state = 'pending'
            -- One that is locked is being begun: too late for what is now.
            LIMIT 1 FOR UPDATE SKIP LOCKED;
    END IF;
    IF made IS NULL THEN
        made := gen_random_uuid();
        INSERT INTO snapshot (id, organization_id, name, hidden, purpose, source_sandbox_id, source_epoch, cpu, memory_gib, disk_gib,
                gpu, gpu_type, os_user, entrypoint, allow_sudo)
            VALUES (made, owner, coalesce(wanted_name, wanted_purpose || ' ' || made), wanted_purpose <> 'snapshot', wanted_purpose, target,
                its_epoch, source.cpu, source.memory_gib, source.disk_gib, source.gpu, source.gpu_types[1], source.os_user,
                source.entrypoint, source.allow_sudo);
    END IF;
    RETURN made;
END
$$;

-- Runner: begin, or take over, a capture of a sandbox that is placed on me: what an owner waits for goes before backups, then the
-- organization that has fewest under way here, then what has waited longest. A sandbox is captured once at a time. No row when
-- there is none.
CREATE FUNCTION claim_capture(lease_seconds integer, may_be_backup boolean)
RETURNS TABLE (snapshot_id uuid, epoch bigint, kind text, organization_id uuid, image_name text, build_info jsonb,
    failures integer, seconds_left double precision, sandbox_id uuid, placement_epoch bigint, disk_gib integer, purpose text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    me uuid := require_runner();
    found uuid;
BEGIN
    SELECT j.snapshot_id INTO found
        FROM snapshot_job j JOIN snapshot s ON s.id = j.snapshot_id
            JOIN sandbox_placement p ON p.sandbox_id = s.source_sandbox_id AND p.epoch = s.source_epoch
            JOIN sandbox x ON x.id = p.sandbox_id
        WHERE j.kind = 'capture' AND p.runner_id = me AND x.desired_state <> 'destroyed' AND NOT x.archive_ready
            AND (may_be_backup OR s.purpose <> 'backup')
            AND j.not_before <= now() AND j.deadline_at > now() AND j.claims < snapshot_claims_limit()
            AND (j.lease_expires_at IS NULL OR j.lease_expires_at < now())
            AND NOT EXISTS (SELECT FROM snapshot_job o JOIN snapshot os ON os.id = o.snapshot_id
                WHERE os.source_sandbox_id = s.source_sandbox_id AND o.lease_expires_at > now())
        ORDER BY s.purpose = 'backup', (SELECT count(*) FROM snapshot_job o JOIN snapshot os ON os.id = o.snapshot_id
                WHERE o.runner_id = me AND o.lease_expires_at > now() AND os.organization_id = s.organization_id), j.created_at
        LIMIT 1 FOR NO KEY UPDATE OF s, j SKIP LOCKED;
    IF found IS NULL THEN
        RETURN;
    END IF;
    UPDATE snapshot_job j SET runner_id = me, epoch = nextval('snapshot_job_epoch'), claims = j.claims + 1, step = NULL, done_bytes = NULL,
            deadline_at = CASE WHEN j.epoch = 0 THEN now() + interval '60 minutes' ELSE j.deadline_at END,
            total_bytes = NULL, lease_expires_at = now() + make_interval(secs => lease_seconds)
        WHERE j.snapshot_id = found;
    UPDATE snapshot s SET state = 'snapshotting', captured_at = now() WHERE s.id = found;
    RETURN QUERY SELECT j.snapshot_id, j.epoch, j.kind, s.organization_id, s.image_name, s.build_info, j.failures,
            extract(epoch FROM j.deadline_at - now())::double precision, s.source_sandbox_id, s.source_epoch, x.disk_gib, s.purpose
        FROM snapshot_job j JOIN snapshot s ON s.id = j.snapshot_id JOIN sandbox x ON x.id = s.source_sandbox_id
        WHERE j.snapshot_id = found;
END
$$;

-- Archives --------------------------------------------------------------------------------------------------------

-- The newest backup that has an image and shows the sandbox as it has been since it stopped; no row when there is none.
CREATE FUNCTION complete_backup(target uuid) RETURNS SETOF snapshot LANGUAGE sql STABLE AS $$
    SELECT b.* FROM snapshot b JOIN sandbox_placement p ON p.sandbox_id = target JOIN sandbox_status t ON t.sandbox_id = target
    WHERE b.source_sandbox_id = target AND b.purpose = 'backup' AND b.image IS NOT NULL AND b.source_epoch = p.epoch
        AND t.state = 'stopped' AND b.captured_at > t.state_changed_at
    ORDER BY b.captured_at DESC LIMIT 1
$$;

-- One step on the way of a sandbox that is to be archived; nothing for any other. Called when the wish, the status or a capture
-- changes. First it stops (its runner's plan), and what its owner has captured is made; then it is backed up, and only then its
-- runner lets go of it.
CREATE FUNCTION advance_archive(target uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    wanted sandbox;
    seen sandbox_status;
    made snapshot;
    newest snapshot;
BEGIN
    SELECT * INTO wanted FROM sandbox
        WHERE id = target AND desired_state = 'archived' AND NOT archive_ready AND capturing IS NULL FOR NO KEY UPDATE;
    SELECT * INTO seen FROM sandbox_status WHERE sandbox_id = wanted.id AND state = 'stopped';
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT * INTO made FROM complete_backup(target);
    -- What has had no container since it was placed is what its image is.
    IF FOUND OR seen.container_id IS NULL THEN
        -- Its runner must have heard of the wish first: it may be about to start it still, for one of before.
        IF seen.observed_generation < wanted.generation THEN
            RETURN;
        END IF;
        -- From here on the image is what counts: a start may find the container still there, or not.
        UPDATE sandbox SET image = coalesce(made.image, image), architecture = coalesce(made.architecture, architecture),
            restored = restored OR made.id IS NOT NULL, archive_ready = true WHERE id = target;
        PERFORM pg_notify('runner_' || runner_id, 'sandbox:' || target) FROM sandbox_placement WHERE sandbox_id = target;
        RETURN;
    END IF;
    SELECT * INTO newest FROM snapshot WHERE source_sandbox_id = target AND purpose = 'backup' ORDER BY created_at DESC LIMIT 1;
    IF newest.state IN ('pending', 'snapshotting') THEN
        RETURN;
    ELSIF newest.state = 'error' AND newest.created_at >= wanted.desired_changed_at THEN
        PERFORM set_config('martlet.cause', 'it could not be backed up: ' || newest.error_reason, true);
        UPDATE sandbox SET desired_state = 'stopped' WHERE id = target;
    ELSE
        PERFORM request_capture(target, wanted.organization_id, wanted.generation, 'backup', NULL);
    END IF;
END
$$;

CREATE FUNCTION archive_wish() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.archive_ready := false;
    IF NEW.desired_state = 'archived' AND NEW.auto_delete_minutes = 0 THEN
        RAISE EXCEPTION 'an ephemeral sandbox (auto-delete 0) cannot be archived'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'ephemeral_is_not_archived', HINT = 'Set another auto-delete interval first.';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER d_archive_wish BEFORE UPDATE OF desired_state ON sandbox
    FOR EACH ROW WHEN (NEW.desired_state <> OLD.desired_state) EXECUTE FUNCTION archive_wish();

-- After sandbox_changed, by its name.
CREATE FUNCTION archive_wished() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF NEW.desired_state = 'archived' THEN
        -- What waits for a runner has nothing on any.
        DELETE FROM sandbox_queue WHERE sandbox_id = NEW.id;
        PERFORM advance_archive(NEW.id);
    ELSIF NEW.desired_state IN ('started', 'stopped') THEN
        PERFORM place(NEW.id);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER sandbox_changed_archive AFTER UPDATE OF desired_state ON sandbox
    FOR EACH ROW WHEN (NEW.desired_state <> OLD.desired_state AND 'archived' IN (OLD.desired_state, NEW.desired_state))
    EXECUTE FUNCTION archive_wished();

CREATE FUNCTION archive_stopped() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM sandbox WHERE id = NEW.sandbox_id AND desired_state = 'archived') THEN
        PERFORM advance_archive(NEW.sandbox_id);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER archive_stopped AFTER UPDATE OF state, observed_generation ON sandbox_status
    FOR EACH ROW WHEN (NEW.state = 'stopped' AND (OLD.state, OLD.observed_generation) IS DISTINCT FROM (NEW.state, NEW.observed_generation))
    EXECUTE FUNCTION archive_stopped();

-- An archived sandbox waits for nobody.
CREATE FUNCTION archived_is_not_queued() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM sandbox WHERE id = NEW.sandbox_id AND desired_state = 'archived') THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER archived_is_not_queued BEFORE INSERT ON sandbox_queue FOR EACH ROW EXECUTE FUNCTION archived_is_not_queued();

-- Its runner has let go of it.
CREATE FUNCTION archive_done() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM record_event('sandbox.state.updated', id, organization_id, 'archiving', 'archived', NULL), pg_notify('status', id::text),
            pg_notify('route', 'sandbox:' || id)
        FROM sandbox WHERE id = OLD.sandbox_id AND desired_state = 'archived';
    RETURN NULL;
END
$$;
CREATE TRIGGER archive_done AFTER DELETE ON sandbox_placement FOR EACH ROW EXECUTE FUNCTION archive_done();

-- A host that comes back may have a container of an earlier placement: epochs never begin anew.
CREATE FUNCTION epoch_goes_on() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        UPDATE sandbox SET last_epoch = OLD.epoch WHERE id = OLD.sandbox_id;
        RETURN NULL;
    END IF;
    NEW.epoch := (SELECT last_epoch + 1 FROM sandbox WHERE id = NEW.sandbox_id);
    RETURN NEW;
END
$$;
CREATE TRIGGER a_epoch_goes_on AFTER DELETE ON sandbox_placement FOR EACH ROW EXECUTE FUNCTION epoch_goes_on();
CREATE TRIGGER a_epoch_begins BEFORE INSERT ON sandbox_placement FOR EACH ROW EXECUTE FUNCTION epoch_goes_on();

-- Its container is lost: it starts from its last backup. False where it has none.
CREATE FUNCTION restore_from_backup(target uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    newest uuid;
    made snapshot;
BEGIN
    -- Locked, so that its image is nobody's garbage before it is the sandbox's. One that is gone by then made way for a newer one.
    WHILE made.id IS NULL LOOP
        SELECT id INTO newest FROM snapshot WHERE source_sandbox_id = target AND purpose = 'backup' AND image IS NOT NULL
            ORDER BY captured_at DESC LIMIT 1;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
        SELECT * INTO made FROM snapshot WHERE id = newest FOR KEY SHARE;
    END LOOP;
    UPDATE sandbox SET image = made.image, architecture = made.architecture, restored = true WHERE id = target;
    PERFORM record_event('sandbox.restored', target, made.organization_id, NULL, 'restoring',
        format('it starts from its backup of %s', made.captured_at));
    RETURN true;
END
$$;

-- Another runner takes it over because its own is lost.
CREATE FUNCTION takeover_restores() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM restore_from_backup(NEW.sandbox_id);
    RETURN NULL;
END
$$;
CREATE TRIGGER takeover_restores AFTER UPDATE OF runner_id ON sandbox_placement
    FOR EACH ROW WHEN (NEW.epoch <> OLD.epoch AND NEW.runner_id <> OLD.runner_id) EXECUTE FUNCTION takeover_restores();

-- As before; and what is stopped, or is about to be archived, is archived where its backup has all that its lost runner has: then
-- nothing is lost, should that come back after all. Any other waits for it. (Compiling the query takes longer than running it.)
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
                ELSE s.auto_delete_minutes <> 0 AND EXISTS (SELECT FROM complete_backup(s.id)) END
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

CREATE FUNCTION archive_orphan(target uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    made snapshot;
BEGIN
    SELECT * INTO made FROM complete_backup(target);
    PERFORM set_config('martlet.cause', format('its runner''s lease expired; its backup of %s has all of its files', made.captured_at), true);
    UPDATE sandbox SET desired_state = 'archived', image = made.image, architecture = made.architecture, restored = true WHERE id = target;
    DELETE FROM sandbox_placement WHERE sandbox_id = target;
END
$$;

-- Runner: the container that I reported is gone from my host, and not by my hand. False when there is no backup to start from, or
-- nothing of this was so any more.
CREATE FUNCTION restore_lost(target uuid, held_epoch bigint, lost_container text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM FROM sandbox WHERE id = target FOR NO KEY UPDATE;
    PERFORM FROM sandbox_placement WHERE sandbox_id = target AND runner_id = require_runner() AND epoch = held_epoch;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE sandbox_status SET container_id = NULL WHERE sandbox_id = target AND container_id = lost_container;
    RETURN FOUND AND restore_from_backup(target);
END
$$;

-- Forks -----------------------------------------------------------------------------------------------------------

-- Api: makes a child that starts from what the sandbox is now, with all of its settings. Its id; NULL when the sandbox is not as
-- expected any more.
CREATE FUNCTION request_fork(target uuid, owner uuid, expected_generation bigint, wanted_name text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    child uuid := gen_random_uuid();
    capture uuid := request_capture(target, owner, expected_generation, 'fork', NULL);
    source sandbox;
BEGIN
    IF capture IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT * INTO source FROM sandbox WHERE id = target;
    -- A whole row, so that what later versions add to a sandbox is not forgotten here.
    INSERT INTO sandbox SELECT (jsonb_populate_record(source, jsonb_build_object(
        'id', child, 'name', coalesce(wanted_name, child::text), 'parent_id', target, 'snapshot_id', capture,
        'desired_state', 'started', 'force_stop', false, 'recover_count', 0, 'generation', 1, 'desired_changed_at', now(),
        -- It may live as long as its parent may, from now: neither for ever, nor to be gone in a moment.
        'auto_destroy_at', now() + (source.auto_destroy_at - source.created_at),
        'toolbox_token', encode(sha256(gen_random_uuid()::text::bytea || gen_random_uuid()::text::bytea), 'hex'),
        'signing_key', encode(sha256(gen_random_uuid()::text::bytea || gen_random_uuid()::text::bytea), 'hex'),
        'created_at', now(), 'updated_at', now(), 'capturing', NULL, 'restored', false, 'archive_ready', false, 'last_epoch', 0))).*;
    UPDATE sandbox SET snapshot_name = source.snapshot_name WHERE id = child;
    RETURN child;
END
$$;

-- Readers ---------------------------------------------------------------------------------------------------------

CREATE VIEW sandbox_backup AS
    SELECT DISTINCT ON (source_sandbox_id) source_sandbox_id AS sandbox_id,
        CASE state WHEN 'pending' THEN 'Pending' WHEN 'snapshotting' THEN 'InProgress' WHEN 'error' THEN 'Error' ELSE 'Completed' END AS state,
        (SELECT max(o.captured_at) FROM snapshot o WHERE o.source_sandbox_id = s.source_sandbox_id AND o.purpose = 'backup'
            AND o.image IS NOT NULL) AS completed_at, error_reason
    FROM snapshot s WHERE purpose = 'backup' AND source_sandbox_id IS NOT NULL ORDER BY source_sandbox_id, created_at DESC;
COMMENT ON VIEW sandbox_backup IS 'How the newest backup of a sandbox stands, and when the last one was taken.';

-- As before; to its owner a fork is not pulled.
CREATE OR REPLACE FUNCTION waiting_state(image_of uuid) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT CASE
        WHEN state IN ('error', 'build_failed', 'inactive') THEN CASE WHEN build_info IS NULL THEN 'error' ELSE 'build_failed' END
        WHEN purpose = 'fork' THEN 'creating'
        WHEN build_info IS NULL THEN 'pulling_snapshot'
        WHEN state = 'pending' THEN 'pending_build'
        WHEN state = 'building' THEN 'building_snapshot'
        ELSE 'creating' END
    FROM snapshot WHERE id = image_of
$$;

CREATE FUNCTION state_of_capture(asked sandbox, otherwise text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN asked.desired_state = 'archived' AND otherwise IN ('started', 'stopped', 'starting', 'stopping') THEN 'archiving'
        WHEN otherwise IN ('started', 'stopped') THEN coalesce(asked.capturing, otherwise)
        WHEN otherwise = 'creating' AND asked.restored THEN 'restoring'
        ELSE otherwise END
$$;
CREATE OR REPLACE FUNCTION public_state(asked sandbox, placed boolean, alive boolean, seen sandbox_status) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN NOT placed AND asked.desired_state = 'archived' AND asked.destroyed_at IS NULL THEN 'archived'
        WHEN NOT placed AND asked.desired_state <> 'destroyed' AND starts_with(asked.image, 'pending:')
            THEN coalesce(waiting_state(asked.snapshot_id), 'error')
        ELSE state_of_capture(asked, state_with_image(asked, placed, alive, seen)) END
$$;

-- A sandbox that is captured runs on, and is reached as before. (The view "route" knows nothing of captures.)
CREATE FUNCTION state_for_traffic(asked sandbox, placed boolean, alive boolean, seen sandbox_status) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE asked.capturing IS NULL WHEN true THEN public_state(asked, placed, alive, seen)
        ELSE state_with_image(asked, placed, alive, seen) END
$$;
-- As before, by that state.
CREATE OR REPLACE FUNCTION admit_ssh(token_hash bytea)
RETURNS TABLE (access_id uuid, sandbox_id uuid, organization_id uuid, milliseconds_left bigint, state text, runner_id uuid, epoch bigint,
    toolbox_token text, ingress_address text, tls_fingerprint text, ingress_secret bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT a.id, s.id, s.organization_id, ceil(extract(epoch FROM a.expires_at - now()) * 1000)::bigint,
        state_for_traffic(s, p.sandbox_id IS NOT NULL, coalesce(l.expires_at > now(), false), t), p.runner_id, p.epoch, s.toolbox_token,
        rs.ingress_address, rs.tls_fingerprint, rs.ingress_secret
    FROM ssh_access a
        JOIN sandbox s ON s.id = a.sandbox_id
        JOIN organization o ON o.id = s.organization_id
        LEFT JOIN sandbox_placement p ON p.sandbox_id = s.id
        LEFT JOIN sandbox_status t ON t.sandbox_id = s.id
        LEFT JOIN runner_status rs ON rs.runner_id = p.runner_id
        LEFT JOIN runner_lease l ON l.runner_id = p.runner_id
    WHERE a.hash = token_hash AND a.expires_at > now() AND NOT o.suspended
$$;

-- As before, with two columns more.
CREATE OR REPLACE VIEW my_sandbox AS
    SELECT s.id, s.organization_id, s.name, s.image, s.os_user, s.entrypoint, s.allow_sudo, s.env, s.labels, s.cpu, s.memory_gib,
        s.disk_gib, s.gpu, s.gpu_types, s.network_block_all, s.network_allow_list, s.desired_state, s.force_stop, s.generation,
        s.toolbox_token, p.epoch, p.slot, p.gpu_devices, t.state, t.error_reason, t.recoverable, t.timed_out, t.observed_generation,
        t.container_id, t.effective, t.deadline_at, t.state_changed_at, s.record_terminals, s.archive_ready, s.restored
    FROM sandbox s JOIN sandbox_placement p ON p.sandbox_id = s.id JOIN sandbox_status t ON t.sandbox_id = s.id
    WHERE p.runner_id = current_runner();

-- As before; what its owner has captured is not stuck.
CREATE OR REPLACE VIEW stuck_sandboxes AS
    SELECT v.id, v.name, v.state, v.desired_state AS wanted, now() - greatest(v.state_changed_at, s.desired_changed_at) AS for_how_long,
        CASE WHEN starts_with(v.image, 'pending:') THEN coalesce(v.error_reason, 'its image is being made: see view snapshots')
             WHEN v.runner_id IS NULL THEN 'no runner of region ' || v.region_id || ' has room: see view runners'
             WHEN v.state = 'unknown' THEN 'its runner is unreachable: see view runners'
             WHEN v.state = 'error' THEN v.error_reason
             WHEN v.state = 'archiving' AND b.state <> 'Completed' THEN 'it is being backed up: see view snapshots'
             ELSE 'its runner has not got it from ' || t.state || ' to ' || v.desired_state || ' yet: see that runner''s log' END AS why,
        r.name AS runner
    FROM sandbox_view v JOIN sandbox s ON s.id = v.id LEFT JOIN sandbox_status t ON t.sandbox_id = v.id LEFT JOIN runner r ON r.id = v.runner_id
        LEFT JOIN sandbox_backup b ON b.sandbox_id = v.id
    WHERE v.destroyed_at IS NULL AND v.state <> v.desired_state AND v.state NOT IN ('snapshotting', 'forking')
        AND coalesce(greatest(v.state_changed_at, s.desired_changed_at), s.created_at) < now() - interval '30 seconds';

-- Time ------------------------------------------------------------------------------------------------------------
-- Whether a clock wants something of a row takes a look at several tables, and most rows want nothing. So each turn looks at a
-- portion, going round: what a turn costs does not grow with the tables, only how late it is seen (17 minutes at 100,000 rows).

CREATE TABLE housekeeping_round (
    what text PRIMARY KEY,
    last_id uuid
);
COMMENT ON TABLE housekeeping_round IS 'How far each round of housekeeping has come; NULL begins anew. Written and read by next_of_round() alone.';

CREATE FUNCTION turn_length() RETURNS integer LANGUAGE sql IMMUTABLE AS $$ SELECT 1000 $$;

-- The rows of this turn of a round through a table. Whoever asks holds the lock of its housekeeping.
CREATE FUNCTION next_of_round(round text, relation regclass, key text) RETURNS uuid[]
LANGUAGE plpgsql AS $$
DECLARE
    after_id uuid := (SELECT last_id FROM housekeeping_round WHERE what = round);
    ids uuid[];
BEGIN
    EXECUTE format('SELECT array(SELECT %1$I FROM %2$s WHERE %1$I > $1 ORDER BY %1$I LIMIT turn_length())', key, relation)
        INTO ids USING coalesce(after_id, '00000000-0000-0000-0000-000000000000');
    INSERT INTO housekeeping_round (what, last_id) VALUES (round, ids[turn_length()])
        ON CONFLICT (what) DO UPDATE SET last_id = excluded.last_id WHERE housekeeping_round.last_id IS DISTINCT FROM excluded.last_id;
    RETURN ids;
END
$$;

-- Most backups that wait at once because of a clock, of one organization and of all: the next ones come when these are done.
CREATE FUNCTION waiting_backups_limit() RETURNS integer LANGUAGE sql IMMUTABLE AS $$ SELECT 20 $$;
CREATE FUNCTION all_waiting_backups_limit() RETURNS integer LANGUAGE sql IMMUTABLE AS $$ SELECT 200 $$;

-- Of these sandboxes those that a clock wants to be backed up: one of each organization, those that waited longest, then the
-- next of each. What has not changed is not backed up again, and one that could not be is tried again after an hour.
CREATE FUNCTION backups_due(ids uuid[]) RETURNS TABLE (sandbox_id uuid, organization_id uuid, generation bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    WITH waiting AS (
        SELECT w.organization_id, count(*) AS backups FROM snapshot_job j JOIN snapshot w ON w.id = j.snapshot_id
        WHERE w.purpose = 'backup' GROUP BY w.organization_id
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

-- Api: captures that nobody can end, backups that nobody needs, and what clocks want.
CREATE FUNCTION housekeep_captures() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    due record;
    ids uuid[];
    changed integer;
    total integer := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('martlet.housekeep_captures')) THEN
        RETURN 0;
    END IF;
    PERFORM set_config('martlet.actor', 'timer', true);
    FOR due IN
        SELECT s.id FROM snapshot_job j JOIN snapshot s ON s.id = j.snapshot_id
        WHERE j.kind = 'capture' AND NOT EXISTS (SELECT FROM sandbox x JOIN sandbox_placement p ON p.sandbox_id = x.id
            WHERE x.id = s.source_sandbox_id AND x.desired_state <> 'destroyed' AND p.epoch = s.source_epoch)
        FOR NO KEY UPDATE OF s SKIP LOCKED
    LOOP
        PERFORM end_snapshot_job(due.id, 'its sandbox was destroyed, archived, or taken over by another runner before it was captured');
        total := total + 1;
    END LOOP;
    -- Soon after the sandbox is destroyed; at the latest when its row goes.
    DELETE FROM snapshot WHERE id IN (
        (SELECT b.id FROM sandbox s JOIN snapshot b ON b.source_sandbox_id = s.id
            WHERE s.destroyed_at > now() - interval '5 minutes' AND b.purpose = 'backup' LIMIT 100)
        UNION ALL (SELECT id FROM snapshot WHERE purpose = 'backup' AND source_sandbox_id IS NULL LIMIT 100));
    GET DIAGNOSTICS changed = ROW_COUNT;
    total := total + changed;
    ids := next_of_round('captures', 'sandbox_status', 'sandbox_id');
    -- What has just stopped is not kept waiting for its turn.
    FOR due IN SELECT * FROM backups_due(ids || array(SELECT t.sandbox_id FROM sandbox_status t
        WHERE t.state = 'stopped' AND t.state_changed_at > now() - interval '1 minute' LIMIT turn_length()))
    LOOP
        PERFORM request_capture(due.sandbox_id, due.organization_id, due.generation, 'backup', NULL);
        total := total + 1;
    END LOOP;
    -- One that could not be archived is tried again after as long as at first, or an hour.
    PERFORM set_config('martlet.cause', 'auto-archive', true);
    UPDATE sandbox SET desired_state = 'archived' WHERE id IN (
        SELECT s.id FROM sandbox s JOIN sandbox_status t ON t.sandbox_id = s.id
        -- All of this turn's: they follow upon each other.
        WHERE t.sandbox_id BETWEEN ids[1] AND ids[cardinality(ids)] AND t.state = 'stopped' AND s.desired_state = 'stopped'
            AND s.capturing IS NULL AND s.auto_archive_minutes > 0 AND s.auto_delete_minutes <> 0
            AND t.state_changed_at < now() - make_interval(mins => s.auto_archive_minutes)
            AND NOT EXISTS (SELECT FROM snapshot b WHERE b.source_sandbox_id = s.id AND b.purpose = 'backup' AND b.state = 'error'
                AND b.updated_at > now() - interval '1 hour')
            AND EXISTS (SELECT FROM sandbox_placement p JOIN runner_lease l ON l.runner_id = p.runner_id
                WHERE p.sandbox_id = s.id AND l.expires_at > now())
        ORDER BY t.state_changed_at LIMIT 100 FOR UPDATE OF s SKIP LOCKED);
    GET DIAGNOSTICS changed = ROW_COUNT;
    total := total + changed;
    PERFORM set_config('martlet.cause', 'auto-delete', true);
    UPDATE sandbox SET desired_state = 'destroyed'
        WHERE desired_state = 'archived' AND auto_delete_minutes >= 0
            AND desired_changed_at AT TIME ZONE 'UTC' + make_interval(mins => auto_delete_minutes) <= now() AT TIME ZONE 'UTC';
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN total + changed;
END
$$;

-- Failed ones stay as long as a sandbox tells of them; those under way that nobody waits for are given up. Backups, which no
-- sandbox was made from, are the captures' own.
CREATE VIEW unneeded_hidden_snapshot AS
    SELECT s.id FROM snapshot s
    WHERE s.hidden AND s.purpose IS DISTINCT FROM 'backup'
        AND NOT EXISTS (SELECT FROM sandbox x WHERE x.snapshot_id = s.id AND x.destroyed_at IS NULL)
        AND greatest(s.created_at, s.last_used_at) < now() - CASE s.state WHEN 'active' THEN interval '1 day' ELSE interval '10 minutes' END;
COMMENT ON VIEW unneeded_hidden_snapshot IS 'What housekeep_builds() deletes.';

-- Api: contexts and hidden snapshots that nobody needs any more; and what follows a build that ended unseen.
CREATE FUNCTION housekeep_builds() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    ids uuid[];
    changed integer;
    total integer := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('martlet.housekeep_builds')) THEN
        RETURN 0;
    END IF;
    PERFORM set_config('martlet.actor', 'timer', true);
    UPDATE snapshot SET state = 'pending' WHERE id IN (
        SELECT s.id FROM snapshot s WHERE s.state = 'building' AND s.built_by <> s.id
            AND NOT EXISTS (SELECT FROM snapshot l WHERE l.id = s.built_by AND l.state IN ('pending', 'building'))
        LIMIT 100);
    GET DIAGNOSTICS changed = ROW_COUNT;
    total := total + changed;
    DELETE FROM build_context WHERE id IN (
        SELECT c.id FROM build_context c
        WHERE c.last_used_at < now() - CASE WHEN c.completed_at IS NULL THEN interval '1 hour' ELSE interval '7 days' END
        LIMIT 100);
    GET DIAGNOSTICS changed = ROW_COUNT;
    total := total + changed;
    ids := next_of_round('builds', 'snapshot', 'id');
    DELETE FROM snapshot WHERE id IN (SELECT id FROM unneeded_hidden_snapshot WHERE id = ANY (ids) LIMIT 100);
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN total + changed;
END
$$;

-- Api: jobs that nobody will end, and snapshots that nobody uses.
CREATE FUNCTION housekeep_snapshots() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    late record;
    ids uuid[];
    changed integer;
    total integer := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('martlet.housekeep_snapshots')) THEN
        RETURN 0;
    END IF;
    PERFORM set_config('martlet.actor', 'timer', true);
    -- While runners of its regions are at others, a job has its place in their queue.
    UPDATE snapshot_job SET idle_since = now() WHERE snapshot_id IN (
        SELECT j.snapshot_id FROM snapshot_job j JOIN snapshot s ON s.id = j.snapshot_id
        WHERE j.epoch = 0 AND j.idle_since < now() - interval '1 minute' AND EXISTS (
            SELECT FROM snapshot_job o JOIN runner r ON r.id = o.runner_id
            WHERE o.lease_expires_at > now() AND o.deadline_at > now()
                AND (cardinality(s.region_ids) = 0 OR r.region_id = ANY (s.region_ids)))
        FOR NO KEY UPDATE OF s, j SKIP LOCKED);
    FOR late IN
        SELECT s.id, j.step, j.last_error, j.claims, j.epoch = 0 AS is_untouched, j.deadline_at < now() AS is_late, r.name AS runner
        FROM snapshot_job j JOIN snapshot s ON s.id = j.snapshot_id LEFT JOIN runner r ON r.id = j.runner_id
        WHERE j.deadline_at < now()
            OR j.claims >= snapshot_claims_limit() AND coalesce(j.lease_expires_at, now()) <= now()
            OR j.epoch = 0 AND j.idle_since < now() - interval '10 minutes'
        FOR NO KEY UPDATE OF s SKIP LOCKED
    LOOP
        PERFORM end_snapshot_job(late.id, CASE
            WHEN late.is_late AND late.is_untouched THEN 'step wait: the queue is too long: the runners of its regions were at others for '
                || '6 hours; activate it again later, or add runners (the operator)'
            WHEN late.is_late THEN format('step %s: not done within its deadline of 60 minutes%s', coalesce(late.step, 'wait'),
                coalesce('; the last failure was: ' || late.last_error, ''))
            WHEN late.claims > 0 THEN format('step %s: its runner ended %s times while at it, last %s; look at that runner''s log',
                coalesce(late.step, 'begin'), late.claims, coalesce(late.runner, 'one that is gone'))
            ELSE 'step wait: no runner of its regions took it within 10 minutes; one that is ready (view runners) and has MARTLET_REGISTRY_URL set is needed'
            END);
        total := total + 1;
    END LOOP;
    ids := next_of_round('snapshots', 'snapshot', 'id');
    PERFORM set_config('martlet.cause', 'no sandbox was made from it for longer than organization.snapshot_deactivation_minutes', true);
    UPDATE snapshot s SET desired_state = 'inactive' FROM organization o
        WHERE s.id = ANY (ids) AND o.id = s.organization_id AND NOT s.general AND s.state = 'active'
            AND s.purpose IS DISTINCT FROM 'backup' AND o.snapshot_deactivation_minutes > 0
            AND greatest(s.last_used_at, s.activated_at, s.created_at) < now() - make_interval(mins => o.snapshot_deactivation_minutes)
            AND NOT EXISTS (SELECT FROM sandbox x WHERE x.snapshot_id = s.id AND x.destroyed_at IS NULL);
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN total + changed;
END
$$;

-- Rights ----------------------------------------------------------------------------------------------------------

GRANT SELECT ON sandbox_backup TO martlet_api, martlet_operator;
GRANT UPDATE (backup_on_stop, backup_minutes) ON organization TO martlet_operator;
GRANT EXECUTE ON FUNCTION request_capture(uuid, uuid, bigint, text, text), request_fork(uuid, uuid, bigint, text), housekeep_captures(),
    housekeep_builds(), housekeep_snapshots() TO martlet_api;
GRANT EXECUTE ON FUNCTION claim_capture(integer, boolean), restore_lost(uuid, bigint, text) TO martlet_runner;
GRANT EXECUTE ON FUNCTION state_of_capture(sandbox, text) TO martlet_api, martlet_runner, martlet_proxy, martlet_operator;
