-- Volumes: files that outlive sandboxes and are shared by them. The data is in S3; a runner mounts it.

ALTER TABLE organization ADD volume_limit integer DEFAULT 100 CHECK (volume_limit >= 0);
COMMENT ON COLUMN organization.volume_limit IS 'How many volumes it may have; NULL is "no ceiling".';

CREATE TABLE volume (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES organization (id),
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
    desired_state text NOT NULL DEFAULT 'ready' CHECK (desired_state IN ('ready', 'deleted')),
    state text NOT NULL DEFAULT 'pending_create' CHECK (state IN
        ('pending_create', 'creating', 'ready', 'pending_delete', 'deleting', 'deleted', 'error')),
    error_reason text,
    attempts integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    deleted_at timestamptz,
    CONSTRAINT volume_error_has_a_reason CHECK (state <> 'error' OR error_reason IS NOT NULL)
);
COMMENT ON TABLE volume IS 'A folder in S3, named by its id. Name and wish are written by api and operator, all else by functions on behalf of runners; read by api; purge_volumes() deletes it 24 h after its end.';
COMMENT ON COLUMN volume.desired_state IS 'UPDATE this to ''deleted'' to remove a volume with its data; refused while a sandbox uses it.';
COMMENT ON COLUMN volume.attempts IS 'Failed tries to make or remove it in S3; they go on, later each time.';
CREATE UNIQUE INDEX volume_name_is_unique ON volume (organization_id, name) WHERE desired_state <> 'deleted';
CREATE INDEX volume_at_work ON volume (next_attempt_at) WHERE state NOT IN ('ready', 'deleted');

CREATE TABLE volume_mount (
    volume_id uuid NOT NULL REFERENCES volume (id) ON DELETE CASCADE,
    runner_id uuid NOT NULL REFERENCES runner (id) ON DELETE CASCADE,
    state text NOT NULL CHECK (state IN ('mounting', 'mounted', 'idle', 'flushing', 'error')),
    problem text,
    since timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (volume_id, runner_id)
);
COMMENT ON TABLE volume_mount IS 'Which runner has a volume mounted, or data of it that is not in S3 yet. Written by that runner, before it mounts and after nothing is left; read by claim_volume_work() and operators.';
CREATE INDEX volume_mount_by_runner ON volume_mount (runner_id);

-- What a sandbox mounts, in the words of the interface: [{"volumeId", "mountPath", "subpath"}]. Fixed when it is made.
ALTER TABLE sandbox ADD volumes jsonb NOT NULL DEFAULT '[]' CONSTRAINT volumes_is_a_short_list
    CHECK (jsonb_typeof(volumes) = 'array' AND jsonb_array_length(volumes) <= 16);
CREATE INDEX sandbox_by_volume ON sandbox USING gin (volumes jsonb_path_ops) WHERE destroyed_at IS NULL AND volumes <> '[]';

CREATE FUNCTION uses_of_volume(target uuid) RETURNS SETOF sandbox LANGUAGE sql STABLE AS $$
    SELECT * FROM sandbox WHERE destroyed_at IS NULL AND volumes <> '[]' AND desired_state <> 'destroyed'
        AND volumes @> jsonb_build_array(jsonb_build_object('volumeId', target))
$$;

-- The volumes are locked against their deletion until the sandbox is committed.
CREATE FUNCTION sandbox_volumes_are_ready() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    wanted uuid[] := (SELECT array_agg((entry->>'volumeId')::uuid) FROM jsonb_array_elements(NEW.volumes) entry);
    unready record;
BEGIN
    PERFORM FROM volume WHERE id = ANY (wanted) AND organization_id = NEW.organization_id ORDER BY id FOR SHARE;
    SELECT w.id, v.name, v.state INTO unready FROM unnest(wanted) AS w (id)
        LEFT JOIN volume v ON v.id = w.id AND v.organization_id = NEW.organization_id
        WHERE v.state IS DISTINCT FROM 'ready' LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'volume ''%'' is %, not ready', coalesce(unready.name, unready.id::text), coalesce(unready.state, 'unknown here')
            USING ERRCODE = 'check_violation', CONSTRAINT = 'volumes_are_ready',
                HINT = 'Wait until GET /volumes/{id} says ready, or use another volume.';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER volumes_are_ready BEFORE INSERT ON sandbox
    FOR EACH ROW WHEN (NEW.volumes <> '[]') EXECUTE FUNCTION sandbox_volumes_are_ready();

-- Where they are mounted -------------------------------------------------------------------------------------------------

-- What a runner says of its host holds whether it has an S3 for volumes.
ALTER TABLE runner_status ADD mounts_volumes boolean NOT NULL
    GENERATED ALWAYS AS (coalesce((engine->>'mountsVolumes')::boolean, false)) STORED;
COMMENT ON COLUMN runner_status.mounts_volumes IS 'Whether it may be given sandboxes with volumes.';

-- As before, and it may be asked for volumes.
CREATE OR REPLACE VIEW runner_healthy AS
    SELECT r.id, r.region_id, s.architecture, s.cpu_capacity, s.memory_capacity_gib, s.disk_capacity_gib, s.gpu_capacity,
           s.gpu_type, s.address_slots, s.mounts_volumes
    FROM runner r JOIN runner_status s ON s.runner_id = r.id JOIN runner_lease l ON l.runner_id = r.id
    WHERE r.schedulable AND NOT r.draining AND l.expires_at > now();

ALTER FUNCTION has_room(runner_healthy, runner_load, sandbox) RENAME TO has_capacity;
CREATE FUNCTION has_room(runner runner_healthy, load runner_load, wanted sandbox) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT has_capacity(runner, load, wanted) AND (wanted.volumes = '[]' OR runner.mounts_volumes)
$$;

-- As before, with volumes.
CREATE OR REPLACE FUNCTION sandbox_fits_a_runner() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    most record;
BEGIN
    SELECT bool_or(has_room(
            ROW(r.id, r.region_id, s.architecture, s.cpu_capacity, s.memory_capacity_gib, s.disk_capacity_gib, s.gpu_capacity,
                s.gpu_type, s.address_slots, s.mounts_volumes)::runner_healthy,
            ROW(r.id, 0, 0, 0, 0, 0, 0, 0)::runner_load, NEW)) AS fits,
            max(s.cpu_capacity) AS cpu, max(s.memory_capacity_gib) AS memory_gib, max(s.disk_capacity_gib) AS disk_gib,
            max(s.gpu_capacity) AS gpu, bool_or(s.mounts_volumes) AS mounts_volumes
        INTO most FROM runner r JOIN runner_status s ON s.runner_id = r.id WHERE r.region_id = NEW.region_id;
    IF most.fits IS NOT FALSE THEN
        RETURN NEW;
    END IF;
    PERFORM refuse_over_region(NEW.region_id, 'cpu', 'CPUs', NEW.cpu, most.cpu);
    PERFORM refuse_over_region(NEW.region_id, 'memory', 'GiB', NEW.memory_gib, most.memory_gib);
    PERFORM refuse_over_region(NEW.region_id, 'disk', 'GiB', NEW.disk_gib, most.disk_gib);
    PERFORM refuse_over_region(NEW.region_id, 'gpu', 'GPUs', NEW.gpu, most.gpu);
    IF NEW.volumes <> '[]' AND NOT most.mounts_volumes THEN
        RAISE EXCEPTION 'volumes has % entries, but no runner of region % mounts volumes', jsonb_array_length(NEW.volumes), NEW.region_id
            USING ERRCODE = 'MRT04', CONSTRAINT = 'fits_a_runner',
                HINT = 'Ask for another region (target), or for no volumes; an operator gives runners an S3 (MARTLET_S3_ENDPOINT).';
    END IF;
    RAISE EXCEPTION 'no runner of region % has all of this together: % CPUs, % GiB of memory, % GiB of disk, % GPUs%, architecture %',
            NEW.region_id, NEW.cpu, NEW.memory_gib, NEW.disk_gib, NEW.gpu,
            CASE WHEN NEW.gpu > 0 THEN coalesce(' (' || nullif(array_to_string(NEW.gpu_types, ' or '), '') || ')', '') ELSE '' END,
            coalesce(NEW.architecture, 'any') || CASE WHEN NEW.volumes <> '[]' THEN ', an S3 for volumes' ELSE '' END
        USING ERRCODE = 'MRT04', CONSTRAINT = 'fits_a_runner', HINT = 'Ask for less, or for another region (target).';
END
$$;

-- A volume's life --------------------------------------------------------------------------------------------------

CREATE FUNCTION volume_within_ceiling() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    ceiling integer := (SELECT volume_limit FROM organization WHERE id = NEW.organization_id);
    used bigint;
BEGIN
    IF ceiling IS NULL THEN
        RETURN NEW;
    END IF;
    PERFORM FROM organization WHERE id = NEW.organization_id FOR NO KEY UPDATE;
    SELECT count(*) INTO used FROM volume WHERE organization_id = NEW.organization_id AND desired_state <> 'deleted';
    IF used >= ceiling THEN
        RAISE EXCEPTION 'the organization''s ceiling of % volumes is reached: % in use, 1 more asked for', ceiling, used
            USING ERRCODE = 'MRT01', CONSTRAINT = 'volume_limit',
                HINT = 'Delete volumes, or raise organization.volume_limit (an operator can, in psql).';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER a_within_ceiling BEFORE INSERT ON volume FOR EACH ROW EXECUTE FUNCTION volume_within_ceiling();

-- The row is locked here, and a sandbox that is being made holds it too: whoever is in use is seen below.
CREATE FUNCTION volume_changes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    used bigint;
BEGIN
    IF NEW.desired_state IS DISTINCT FROM OLD.desired_state THEN
        IF OLD.desired_state = 'deleted' THEN
            RAISE EXCEPTION 'volume % is deleted; it cannot come back', OLD.id
                USING ERRCODE = 'check_violation', CONSTRAINT = 'volume_deletion_is_final', HINT = 'Create a new volume.';
        END IF;
        SELECT count(*) INTO used FROM uses_of_volume(OLD.id);
        IF used > 0 THEN
            RAISE EXCEPTION 'volume ''%'' is in use by % sandboxes (such as %)', OLD.name, used,
                    (SELECT name FROM uses_of_volume(OLD.id) LIMIT 1)
                USING ERRCODE = 'MRT05', CONSTRAINT = 'volume_is_unused', HINT = 'Delete those sandboxes first.';
        END IF;
        NEW.state := 'pending_delete';
        NEW.error_reason := NULL;
        NEW.attempts := 0;
        NEW.next_attempt_at := now();
    END IF;
    IF NEW.state <> 'error' THEN
        NEW.error_reason := NULL;
    END IF;
    IF NEW.state IS DISTINCT FROM OLD.state THEN
        NEW.updated_at := now();
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER volume_changes BEFORE UPDATE ON volume FOR EACH ROW EXECUTE FUNCTION volume_changes();

CREATE FUNCTION volume_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM record_event('volume.created', NEW.id, NEW.organization_id, NULL, NEW.state, NULL);
    ELSIF NEW.state <> OLD.state THEN
        PERFORM record_event('volume.state.updated', NEW.id, NEW.organization_id, OLD.state, NEW.state, NEW.error_reason);
    ELSIF NEW.last_used_at IS DISTINCT FROM OLD.last_used_at THEN
        PERFORM record_event('volume.lastUsedAt.updated', NEW.id, NEW.organization_id, NEW.state, NEW.state, NULL);
    END IF;
    IF NEW.state IN ('pending_create', 'pending_delete') THEN
        PERFORM pg_notify('pending', 'volume');
        PERFORM pg_notify('runner_' || m.runner_id, 'volume:' || NEW.id) FROM volume_mount m WHERE m.volume_id = NEW.id;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER volume_changed AFTER INSERT OR UPDATE ON volume FOR EACH ROW EXECUTE FUNCTION volume_changed();

-- Nothing is mounted of what is to go. (Whoever asks has not heard of it yet.)
CREATE FUNCTION volume_may_be_mounted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM volume WHERE id = NEW.volume_id AND desired_state = 'ready' FOR SHARE) THEN
        RAISE EXCEPTION 'volume % is deleted', NEW.volume_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'volume_is_there', HINT = 'Create a new volume.';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER volume_may_be_mounted BEFORE INSERT ON volume_mount FOR EACH ROW EXECUTE FUNCTION volume_may_be_mounted();

CREATE FUNCTION volume_mount_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM pg_notify('pending', 'volume') FROM volume WHERE id = OLD.volume_id AND desired_state = 'deleted';
    ELSIF NEW.state = 'mounted' AND (TG_OP = 'INSERT' OR OLD.state <> 'mounted') THEN
        UPDATE volume SET last_used_at = now() WHERE id = NEW.volume_id;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER volume_mount_changed AFTER INSERT OR UPDATE OR DELETE ON volume_mount
    FOR EACH ROW EXECUTE FUNCTION volume_mount_changed();

-- What runners do ----------------------------------------------------------------------------------------------------

-- Runner: take volumes that are to be made or removed in S3, for two minutes; whoever dies meanwhile leaves them to others.
-- What a living runner has mounted is not removed: it could come back by a late upload. One that was away for ten minutes
-- removes by itself what it finds deleted when it is back.
CREATE FUNCTION claim_volume_work(most integer) RETURNS SETOF uuid
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE volume SET next_attempt_at = now() + interval '2 minutes',
        state = CASE WHEN state = 'error' THEN state WHEN desired_state = 'deleted' THEN 'deleting' ELSE 'creating' END
    WHERE require_runner() IS NOT NULL AND id IN (
        SELECT id FROM volume v
        WHERE state NOT IN ('ready', 'deleted') AND next_attempt_at <= now()
            AND (desired_state = 'ready' OR NOT EXISTS (
                SELECT FROM volume_mount m JOIN runner_lease l ON l.runner_id = m.runner_id
                WHERE m.volume_id = v.id AND l.expires_at > now() - interval '10 minutes'))
        ORDER BY next_attempt_at LIMIT most FOR UPDATE SKIP LOCKED)
    RETURNING id
$$;

-- Runner: what came of it. A try that failed is repeated after 1, 2, 4, … up to 60 s, and shown as an error from the third on.
CREATE FUNCTION finish_volume_work(target uuid, wish text, trouble text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM require_runner();
    IF trouble IS NULL THEN
        UPDATE volume SET state = wish, attempts = 0, deleted_at = CASE WHEN wish = 'deleted' THEN now() END
            WHERE id = target AND desired_state = wish AND state NOT IN ('ready', 'deleted');
    ELSE
        UPDATE volume SET attempts = attempts + 1,
                next_attempt_at = now() + make_interval(secs => least(60, 2 ^ least(attempts, 6))),
                state = CASE WHEN attempts >= 2 THEN 'error' ELSE state END,
                error_reason = CASE WHEN attempts >= 2 THEN left(trouble, 2000) END
            WHERE id = target AND desired_state = wish AND state NOT IN ('ready', 'deleted');
    END IF;
    RETURN FOUND;
END
$$;

-- Runner: what is wished of a volume; NULL for one that never was or was forgotten.
CREATE FUNCTION volume_wish(target uuid) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT desired_state FROM volume WHERE id = target AND require_runner() IS NOT NULL
$$;

CREATE VIEW my_sandbox_volume AS
    SELECT s.id AS sandbox_id, p.epoch, s.desired_state, t.state, s.volumes
    FROM sandbox s JOIN sandbox_placement p ON p.sandbox_id = s.id JOIN sandbox_status t ON t.sandbox_id = s.id
    WHERE p.runner_id = current_runner() AND s.volumes <> '[]';
COMMENT ON VIEW my_sandbox_volume IS 'What the sandboxes placed on the runner that asks mount; empty for anybody else.';

-- Api: volumes that ended a day ago.
CREATE FUNCTION purge_volumes() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    changed integer;
BEGIN
    DELETE FROM volume WHERE id IN
        (SELECT id FROM volume WHERE deleted_at < now() - interval '24 hours' LIMIT 1000 FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END
$$;

-- For operators, in psql -----------------------------------------------------------------------------------------------

CREATE VIEW volumes AS
    SELECT v.name, o.name AS organization, v.state, v.error_reason, (SELECT count(*) FROM uses_of_volume(v.id)) AS sandboxes,
        (SELECT string_agg(format('%s: %s%s', r.name, m.state, coalesce(' (' || m.problem || ')', '')), ', ' ORDER BY r.name)
            FROM volume_mount m JOIN runner r ON r.id = m.runner_id WHERE m.volume_id = v.id) AS mounts,
        v.last_used_at, v.created_at, v.id
    FROM volume v JOIN organization o ON o.id = v.organization_id WHERE v.state <> 'deleted';
COMMENT ON VIEW volumes IS 'Every volume, who uses it and where it is mounted.';

-- As before, and which hosts mount volumes.
CREATE OR REPLACE VIEW runners AS
    SELECT r.name, r.region_id AS region,
        CASE WHEN s.runner_id IS NULL THEN 'never registered'
             WHEN l.expires_at <= now() THEN 'unreachable since ' || to_char(l.expires_at, 'YYYY-MM-DD HH24:MI:SS')
             WHEN r.draining THEN 'draining'
             WHEN NOT r.schedulable THEN 'closed to new sandboxes'
             ELSE 'ready' END AS condition,
        d.sandboxes, d.cpu || ' of ' || s.cpu_capacity AS cpu_booked, d.memory_gib || ' of ' || s.memory_capacity_gib AS memory_gib_booked,
        d.disk_gib || ' of ' || s.disk_capacity_gib AS disk_gib_booked, d.gpu || ' of ' || s.gpu_capacity AS gpu_booked,
        s.architecture, s.version, l.renewed_at AS last_heartbeat, s.ingress_address, r.id, s.mounts_volumes
    FROM runner r LEFT JOIN runner_status s ON s.runner_id = r.id LEFT JOIN runner_lease l ON l.runner_id = r.id
        LEFT JOIN runner_load d ON d.runner_id = r.id;

ALTER TABLE volume_mount ENABLE ROW LEVEL SECURITY;
CREATE POLICY volume_mount_of_its_own ON volume_mount TO martlet_runner
    USING (runner_id = current_runner()) WITH CHECK (runner_id = current_runner());
CREATE POLICY volume_mount_for_all_else ON volume_mount TO martlet_api, martlet_operator USING (true);

GRANT SELECT, INSERT (id, organization_id, name), UPDATE (desired_state) ON volume TO martlet_api;
GRANT SELECT, UPDATE (desired_state) ON volume TO martlet_operator;
GRANT SELECT (mounts_volumes) ON runner_status TO martlet_api, martlet_operator;
GRANT SELECT ON volume_mount TO martlet_api, martlet_operator;
GRANT SELECT ON volumes TO martlet_operator;
GRANT SELECT, INSERT, DELETE, UPDATE (state, problem, since) ON volume_mount TO martlet_runner;
GRANT SELECT ON my_sandbox_volume TO martlet_runner;
GRANT EXECUTE ON FUNCTION uses_of_volume(uuid), purge_volumes() TO martlet_api, martlet_operator;
GRANT EXECUTE ON FUNCTION claim_volume_work(integer), finish_volume_work(uuid, text, text), volume_wish(uuid) TO martlet_runner;
