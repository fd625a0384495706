-- A sandbox is three rows with three writers (what is asked for, where it is, what was seen) and a view that joins them.

CREATE TABLE sandbox (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES organization (id) ON DELETE CASCADE,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
    region_id text NOT NULL REFERENCES region (id),
    snapshot_id uuid REFERENCES snapshot (id) ON DELETE SET NULL,
    snapshot_name text,
    image text NOT NULL,
    architecture text CHECK (architecture IN ('x86_64', 'aarch64')),
    os_user text,
    entrypoint text[],
    allow_sudo boolean NOT NULL DEFAULT false,
    -- Readers decode texts: one value of another kind would hide the row, and every list with it.
    env jsonb NOT NULL DEFAULT '{}' CONSTRAINT env_is_an_object_of_texts
        CHECK (jsonb_typeof(env) = 'object' AND NOT jsonb_path_exists(env, 'strict $.* ? (@.type() != "string")', '{}', true)),
    labels jsonb NOT NULL DEFAULT '{}' CONSTRAINT labels_is_an_object_of_texts
        CHECK (jsonb_typeof(labels) = 'object' AND NOT jsonb_path_exists(labels, 'strict $.* ? (@.type() != "string")', '{}', true)),
    public boolean NOT NULL DEFAULT false,
    cpu integer NOT NULL CHECK (cpu > 0),
    memory_gib integer NOT NULL CHECK (memory_gib > 0),
    disk_gib integer NOT NULL CHECK (disk_gib > 0),
    gpu integer NOT NULL DEFAULT 0 CHECK (gpu >= 0),
    gpu_types text[] NOT NULL DEFAULT '{}',
    network_block_all boolean NOT NULL DEFAULT false,
    network_allow_list text,
    auto_stop_minutes integer NOT NULL DEFAULT 15 CHECK (auto_stop_minutes >= 0),
    auto_archive_minutes integer NOT NULL DEFAULT 10080 CHECK (auto_archive_minutes >= 0),
    auto_delete_minutes integer NOT NULL DEFAULT -1 CHECK (auto_delete_minutes >= -1),
    auto_destroy_at timestamptz,
    queue_timeout_minutes integer CHECK (queue_timeout_minutes >= 1),
    desired_state text NOT NULL DEFAULT 'started' CHECK (desired_state IN ('started', 'stopped', 'destroyed')),
    force_stop boolean NOT NULL DEFAULT false,
    recover_count integer NOT NULL DEFAULT 0,
    generation bigint NOT NULL DEFAULT 1,
    desired_changed_at timestamptz NOT NULL DEFAULT now(),
    toolbox_token text NOT NULL DEFAULT encode(sha256(gen_random_uuid()::text::bytea || gen_random_uuid()::text::bytea), 'hex'),
    signing_key text NOT NULL DEFAULT encode(sha256(gen_random_uuid()::text::bytea || gen_random_uuid()::text::bytea), 'hex'),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    destroyed_at timestamptz,
    queue_timed_out_at timestamptz,
    CONSTRAINT destroyed_only_when_asked CHECK (destroyed_at IS NULL OR desired_state = 'destroyed')
);
COMMENT ON TABLE sandbox IS 'What is asked for. Written by api and operator (timers: by function); read by all; housekeep() deletes it 24 h after destroyed_at.';
COMMENT ON COLUMN sandbox.desired_state IS 'UPDATE this to start, stop or destroy a sandbox; its runner acts within a second.';
COMMENT ON COLUMN sandbox.generation IS 'Bumped by trigger on each change that a runner must act on.';
COMMENT ON COLUMN sandbox.toolbox_token IS 'What the daemon in the sandbox asks of every caller; given to it by the runner, sent by the proxy.';
CREATE UNIQUE INDEX sandbox_name_is_unique ON sandbox (organization_id, name) WHERE desired_state <> 'destroyed';
CREATE INDEX sandbox_by_age ON sandbox (organization_id, created_at DESC, id DESC) WHERE destroyed_at IS NULL;
CREATE INDEX sandbox_by_name ON sandbox (organization_id, (lower(name) COLLATE "C"), id) WHERE destroyed_at IS NULL;
CREATE INDEX sandbox_by_label ON sandbox USING gin (labels jsonb_path_ops) WHERE destroyed_at IS NULL;
CREATE INDEX sandbox_to_purge ON sandbox (destroyed_at) WHERE destroyed_at IS NOT NULL;
CREATE INDEX sandbox_to_expire ON sandbox (auto_destroy_at) WHERE auto_destroy_at IS NOT NULL AND desired_state <> 'destroyed';
CREATE INDEX sandbox_by_snapshot ON sandbox (snapshot_id);

CREATE TABLE sandbox_placement (
    sandbox_id uuid PRIMARY KEY REFERENCES sandbox (id) ON DELETE CASCADE,
    runner_id uuid NOT NULL REFERENCES runner (id),
    epoch bigint NOT NULL DEFAULT 1,
    slot integer NOT NULL CHECK (slot >= 1),
    cpu integer NOT NULL CHECK (cpu >= 0),
    memory_gib integer NOT NULL CHECK (memory_gib >= 0),
    disk_gib integer NOT NULL CHECK (disk_gib >= 0),
    gpu integer NOT NULL CHECK (gpu >= 0),
    gpu_devices integer[] NOT NULL DEFAULT '{}',
    placed_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT address_has_one_owner UNIQUE (runner_id, slot)
);
COMMENT ON TABLE sandbox_placement IS 'Where it is, and what is booked there. Written by SQL functions only (place, claim_pending, reclaim_orphans, release); read by all; release() deletes it once nothing is left on the host.';
COMMENT ON COLUMN sandbox_placement.epoch IS 'Fencing token: +1 at every change of runner.';
COMMENT ON COLUMN sandbox_placement.slot IS 'Number of the sandbox''s address on its runner; owned until the placement is released.';
COMMENT ON COLUMN sandbox_placement.cpu IS 'Booked cores; 0 while the sandbox is stopped or failed. Likewise memory; disk stays booked.';
COMMENT ON COLUMN sandbox_placement.gpu IS 'Booked GPUs; 0 while the sandbox is stopped. A failed one may still run for a moment, and tenants never share a GPU.';
COMMENT ON COLUMN sandbox_placement.gpu_devices IS 'Which of the runner''s GPUs, from 0: chosen once, since a container keeps its devices. Its own alone while gpu > 0; a start is refused while another has one of them.';

CREATE TABLE sandbox_queue (
    sandbox_id uuid PRIMARY KEY REFERENCES sandbox (id) ON DELETE CASCADE,
    region_id text NOT NULL,
    created_at timestamptz NOT NULL
);
COMMENT ON TABLE sandbox_queue IS 'Living sandboxes without a placement, so that looking for them reads no others. Written by place() and by triggers (the end of a placement puts in; a placement, or the wish to destroy, takes out); read by claim_pending() and housekeep(); dies with the sandbox.';
CREATE INDEX sandbox_queue_by_age ON sandbox_queue (region_id, created_at);

CREATE TABLE sandbox_status (
    sandbox_id uuid PRIMARY KEY REFERENCES sandbox (id) ON DELETE CASCADE,
    runner_id uuid NOT NULL,
    epoch bigint NOT NULL,
    state text NOT NULL DEFAULT 'creating' CHECK (state IN
        ('creating', 'pulling_snapshot', 'starting', 'started', 'stopping', 'stopped', 'resizing', 'error', 'destroying')),
    error_reason text,
    recoverable boolean NOT NULL DEFAULT false,
    timed_out boolean NOT NULL DEFAULT false,
    observed_generation bigint NOT NULL DEFAULT 0,
    container_id text,
    daemon_version text,
    effective jsonb NOT NULL DEFAULT '{}',
    started_at timestamptz,
    state_changed_at timestamptz NOT NULL DEFAULT now(),
    deadline_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT error_has_a_reason CHECK (state <> 'error' OR error_reason IS NOT NULL)
);
COMMENT ON TABLE sandbox_status IS 'What was seen. Rows made by placement; written by the runner that holds the placement, only under its epoch; read by all; dies with the placement.';
COMMENT ON COLUMN sandbox_status.effective IS 'Limits in force, as the engine enforces them: {"cpu","memoryBytes","pids","diskBytes" or null with "diskNote"}.';
COMMENT ON COLUMN sandbox_status.timed_out IS 'The error is a deadline''s (expire_timers), not the runner''s finding: what is found running all the same is kept.';
COMMENT ON COLUMN sandbox_status.deadline_at IS 'When a transitional state becomes an error.';
CREATE INDEX sandbox_status_by_runner ON sandbox_status (runner_id);

CREATE TABLE sandbox_activity (
    sandbox_id uuid PRIMARY KEY REFERENCES sandbox (id) ON DELETE CASCADE,
    organization_id uuid NOT NULL,
    last_activity_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE sandbox_activity IS 'Last sign of use. No notification. Written by report_activity() (proxy, api); read by timers and lists; dies with the sandbox.';
CREATE INDEX sandbox_by_activity ON sandbox_activity (organization_id, last_activity_at DESC, sandbox_id DESC);

CREATE TABLE event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    kind text NOT NULL,
    subject_id uuid NOT NULL,
    organization_id uuid,
    old_state text,
    new_state text,
    cause text,
    actor text NOT NULL DEFAULT session_user,
    detail jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE event IS 'One row for every change, in its transaction. Written by triggers; read by api, webhooks, operators; purge_events() deletes it after 30 days.';
CREATE INDEX event_by_subject ON event (subject_id, id);
CREATE INDEX event_by_age ON event (at);

-- Events ---------------------------------------------------------------------------------------------------------

CREATE FUNCTION record_event(kind text, subject uuid, organization uuid, old_state text, new_state text, cause text)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    INSERT INTO event (kind, subject_id, organization_id, old_state, new_state, cause, actor)
    VALUES (kind, subject, organization, old_state, new_state, cause,
        coalesce(nullif(current_setting('martlet.actor', true), ''), session_user));
$$;

-- The spec -------------------------------------------------------------------------------------------------------

-- SECURITY INVOKER on purpose: it must see who asks. It decides generation and time, so no writer has to.
CREATE FUNCTION sandbox_spec_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.desired_state = 'destroyed' AND NEW.desired_state <> 'destroyed' THEN
        RAISE EXCEPTION 'sandbox % is being destroyed; it cannot become %', OLD.id, NEW.desired_state
            USING ERRCODE = 'check_violation', CONSTRAINT = 'destroyed_is_final', HINT = 'Create a new sandbox.';
    END IF;
    IF (NEW.desired_state, NEW.force_stop, NEW.cpu, NEW.memory_gib, NEW.disk_gib, NEW.network_block_all, NEW.network_allow_list,
            NEW.recover_count)
        IS DISTINCT FROM
       (OLD.desired_state, OLD.force_stop, OLD.cpu, OLD.memory_gib, OLD.disk_gib, OLD.network_block_all, OLD.network_allow_list,
            OLD.recover_count) THEN
        NEW.generation := OLD.generation + 1;
        NEW.desired_changed_at := now();
    END IF;
    NEW.updated_at := now();
    RETURN NEW;
END
$$;
CREATE TRIGGER a_spec_changes BEFORE UPDATE ON sandbox FOR EACH ROW EXECUTE FUNCTION sandbox_spec_changes();

-- A sandbox that no runner holds needs no runner to be destroyed.
CREATE FUNCTION sandbox_unplaced_is_destroyed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF NEW.destroyed_at IS NULL AND NOT EXISTS (SELECT FROM sandbox_placement WHERE sandbox_id = NEW.id) THEN
        NEW.destroyed_at := now();
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER b_unplaced_is_destroyed BEFORE UPDATE OF desired_state ON sandbox
    FOR EACH ROW WHEN (NEW.desired_state = 'destroyed') EXECUTE FUNCTION sandbox_unplaced_is_destroyed();

-- Organization ceilings, counted under the organization's row lock so that parallel creates cannot pass them.
CREATE FUNCTION sandbox_within_ceilings() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    ceiling organization;
    used record;
BEGIN
    SELECT * INTO ceiling FROM organization WHERE id = NEW.organization_id;
    IF coalesce(ceiling.sandbox_limit, ceiling.cpu_limit, ceiling.memory_limit_gib, ceiling.disk_limit_gib) IS NULL THEN
        RETURN NEW;
    END IF;
    PERFORM FROM organization WHERE id = NEW.organization_id FOR NO KEY UPDATE;
    SELECT count(*) AS sandboxes, coalesce(sum(cpu), 0) AS cpu, coalesce(sum(memory_gib), 0) AS memory_gib,
           coalesce(sum(disk_gib), 0) AS disk_gib
        INTO used FROM sandbox
        WHERE organization_id = NEW.organization_id AND desired_state <> 'destroyed' AND id <> NEW.id;
    IF used.sandboxes + 1 > ceiling.sandbox_limit THEN
        PERFORM refuse_over_ceiling('sandboxes', used.sandboxes, 1, ceiling.sandbox_limit, 'sandbox_limit');
    ELSIF used.cpu + NEW.cpu > ceiling.cpu_limit THEN
        PERFORM refuse_over_ceiling('CPUs', used.cpu, NEW.cpu, ceiling.cpu_limit, 'cpu_limit');
    ELSIF used.memory_gib + NEW.memory_gib > ceiling.memory_limit_gib THEN
        PERFORM refuse_over_ceiling('GiB of memory', used.memory_gib, NEW.memory_gib, ceiling.memory_limit_gib, 'memory_limit_gib');
    ELSIF used.disk_gib + NEW.disk_gib > ceiling.disk_limit_gib THEN
        PERFORM refuse_over_ceiling('GiB of disk', used.disk_gib, NEW.disk_gib, ceiling.disk_limit_gib, 'disk_limit_gib');
    END IF;
    RETURN NEW;
END
$$;
CREATE FUNCTION refuse_over_ceiling(what text, used bigint, wanted bigint, ceiling bigint, column_name text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the organization''s ceiling of % % is reached: % in use, % more asked for', ceiling, what, used, wanted
        USING ERRCODE = 'MRT01', CONSTRAINT = column_name,
        HINT = format('Delete sandboxes, or raise organization.%s (an operator can, in psql).', column_name);
END
$$;
CREATE TRIGGER within_ceilings_at_insert BEFORE INSERT ON sandbox FOR EACH ROW EXECUTE FUNCTION sandbox_within_ceilings();
CREATE TRIGGER c_within_ceilings BEFORE UPDATE OF cpu, memory_gib, disk_gib ON sandbox
    FOR EACH ROW WHEN ((NEW.cpu, NEW.memory_gib, NEW.disk_gib) IS DISTINCT FROM (OLD.cpu, OLD.memory_gib, OLD.disk_gib))
    EXECUTE FUNCTION sandbox_within_ceilings();

-- What no runner of the region could hold even if it were empty would wait for ever. A region without runners is about to
-- get its first, so there it may wait.
CREATE FUNCTION sandbox_fits_a_runner() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    most record;
BEGIN
    SELECT bool_or(has_room(
            ROW(r.id, r.region_id, s.architecture, s.cpu_capacity, s.memory_capacity_gib, s.disk_capacity_gib, s.gpu_capacity,
                s.gpu_type, s.address_slots)::runner_healthy, ROW(r.id, 0, 0, 0, 0, 0, 0, 0)::runner_load, NEW)) AS fits,
            max(s.cpu_capacity) AS cpu, max(s.memory_capacity_gib) AS memory_gib, max(s.disk_capacity_gib) AS disk_gib,
            max(s.gpu_capacity) AS gpu
        INTO most FROM runner r JOIN runner_status s ON s.runner_id = r.id WHERE r.region_id = NEW.region_id;
    IF most.fits IS NOT FALSE THEN
        RETURN NEW;
    END IF;
    PERFORM refuse_over_region(NEW.region_id, 'cpu', 'CPUs', NEW.cpu, most.cpu);
    PERFORM refuse_over_region(NEW.region_id, 'memory', 'GiB', NEW.memory_gib, most.memory_gib);
    PERFORM refuse_over_region(NEW.region_id, 'disk', 'GiB', NEW.disk_gib, most.disk_gib);
    PERFORM refuse_over_region(NEW.region_id, 'gpu', 'GPUs', NEW.gpu, most.gpu);
    RAISE EXCEPTION 'no runner of region % has all of this together: % CPUs, % GiB of memory, % GiB of disk, % GPUs%, architecture %',
            NEW.region_id, NEW.cpu, NEW.memory_gib, NEW.disk_gib, NEW.gpu,
            CASE WHEN NEW.gpu > 0 THEN coalesce(' (' || nullif(array_to_string(NEW.gpu_types, ' or '), '') || ')', '') ELSE '' END,
            coalesce(NEW.architecture, 'any')
        USING ERRCODE = 'MRT04', CONSTRAINT = 'fits_a_runner', HINT = 'Ask for less, or for another region (target).';
END
$$;
CREATE FUNCTION refuse_over_region(region text, field text, unit text, wanted integer, most integer) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF wanted > most THEN
        RAISE EXCEPTION '% is %, but the largest runner of region % may promise no more than % %', field, wanted, region, most, unit
            USING ERRCODE = 'MRT04', CONSTRAINT = 'fits_a_runner',
                HINT = format('Ask for at most %s, or for another region (target).', most);
    END IF;
END
$$;
CREATE TRIGGER fits_a_runner BEFORE INSERT ON sandbox FOR EACH ROW EXECUTE FUNCTION sandbox_fits_a_runner();

CREATE FUNCTION sandbox_created() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO sandbox_activity (sandbox_id, organization_id) VALUES (NEW.id, NEW.organization_id);
    PERFORM record_event('sandbox.created', NEW.id, NEW.organization_id, NULL, NEW.desired_state, NULL);
    PERFORM place(NEW.id);
    RETURN NULL;
END
$$;
CREATE TRIGGER sandbox_created AFTER INSERT ON sandbox FOR EACH ROW EXECUTE FUNCTION sandbox_created();

CREATE FUNCTION sandbox_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    holder uuid;
BEGIN
    IF NEW.desired_state IS DISTINCT FROM OLD.desired_state THEN
        PERFORM record_event('sandbox.desired-state.updated', NEW.id, NEW.organization_id, OLD.desired_state, NEW.desired_state,
            nullif(current_setting('martlet.cause', true), ''));
    END IF;
    IF NEW.desired_state = 'destroyed' AND OLD.desired_state <> 'destroyed' THEN
        DELETE FROM sandbox_queue WHERE sandbox_id = NEW.id;
    END IF;
    -- Whoever ended it: its runner, a re-claim, or nobody, because no runner held it.
    IF NEW.destroyed_at IS NOT NULL AND OLD.destroyed_at IS NULL THEN
        PERFORM record_event('sandbox.state.updated', NEW.id, NEW.organization_id,
            CASE OLD.desired_state WHEN 'destroyed' THEN 'destroying' ELSE 'creating' END, 'destroyed',
            nullif(current_setting('martlet.cause', true), ''));
    END IF;
    IF NEW.generation <> OLD.generation THEN
        IF NEW.desired_state = 'started' THEN
            PERFORM book_compute(NEW.id);
        ELSIF NEW.disk_gib <> OLD.disk_gib THEN
            PERFORM book_disk(NEW.id);
        END IF;
        SELECT runner_id INTO holder FROM sandbox_placement WHERE sandbox_id = NEW.id;
        IF holder IS NOT NULL THEN
            PERFORM pg_notify('runner_' || holder, 'sandbox:' || NEW.id);
        END IF;
        PERFORM pg_notify('status', NEW.id::text);
        PERFORM pg_notify('route', 'sandbox:' || NEW.id);
    ELSIF NEW.destroyed_at IS DISTINCT FROM OLD.destroyed_at THEN
        PERFORM pg_notify('status', NEW.id::text);
    ELSIF (NEW.public, NEW.signing_key) IS DISTINCT FROM (OLD.public, OLD.signing_key) THEN
        PERFORM pg_notify('route', 'sandbox:' || NEW.id);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER sandbox_changed AFTER UPDATE ON sandbox FOR EACH ROW EXECUTE FUNCTION sandbox_changed();

-- Placement ------------------------------------------------------------------------------------------------------

CREATE FUNCTION placement_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        UPDATE runner_load SET sandboxes = sandboxes - 1, running = running - (OLD.cpu > 0)::integer, cpu = cpu - OLD.cpu,
            memory_gib = memory_gib - OLD.memory_gib, disk_gib = disk_gib - OLD.disk_gib, gpu = gpu - OLD.gpu
            WHERE runner_id = OLD.runner_id;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        UPDATE runner_load SET sandboxes = sandboxes + 1, running = running + (NEW.cpu > 0)::integer, cpu = cpu + NEW.cpu,
            memory_gib = memory_gib + NEW.memory_gib, disk_gib = disk_gib + NEW.disk_gib, gpu = gpu + NEW.gpu
            WHERE runner_id = NEW.runner_id;
    END IF;
    IF TG_OP = 'DELETE' THEN
        DELETE FROM sandbox_status WHERE sandbox_id = OLD.sandbox_id;
        INSERT INTO sandbox_queue (sandbox_id, region_id, created_at)
            SELECT id, region_id, created_at FROM sandbox WHERE id = OLD.sandbox_id AND desired_state <> 'destroyed';
        PERFORM pg_notify('pending', '');  -- capacity came free
    ELSIF TG_OP = 'INSERT' OR NEW.epoch <> OLD.epoch THEN
        DELETE FROM sandbox_queue WHERE sandbox_id = NEW.sandbox_id;
        INSERT INTO sandbox_status (sandbox_id, runner_id, epoch, deadline_at)
            VALUES (NEW.sandbox_id, NEW.runner_id, NEW.epoch, now() + interval '15 minutes')
        ON CONFLICT (sandbox_id) DO UPDATE SET runner_id = excluded.runner_id, epoch = excluded.epoch, state = 'creating',
            error_reason = NULL, recoverable = false, timed_out = false, observed_generation = 0, container_id = NULL, effective = '{}',
            started_at = NULL, state_changed_at = now(), deadline_at = excluded.deadline_at, updated_at = now();
        PERFORM pg_notify('runner_' || NEW.runner_id, 'sandbox:' || NEW.sandbox_id);
        IF TG_OP = 'UPDATE' THEN
            PERFORM pg_notify('runner_' || OLD.runner_id, 'sandbox:' || NEW.sandbox_id);
        END IF;
        PERFORM pg_notify('route', 'sandbox:' || NEW.sandbox_id);
        PERFORM pg_notify('status', NEW.sandbox_id::text);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER placement_changed AFTER INSERT OR UPDATE OR DELETE ON sandbox_placement
    FOR EACH ROW EXECUTE FUNCTION placement_changed();

-- Whether a runner may be given more: alive, wanted, of the right kind.
CREATE VIEW runner_healthy AS
    SELECT r.id, r.region_id, s.architecture, s.cpu_capacity, s.memory_capacity_gib, s.disk_capacity_gib, s.gpu_capacity,
           s.gpu_type, s.address_slots
    FROM runner r JOIN runner_status s ON s.runner_id = r.id JOIN runner_lease l ON l.runner_id = r.id
    WHERE r.schedulable AND NOT r.draining AND l.expires_at > now();

-- How many sandboxes may run on a runner: all are on its one bridge, and the kernel lets no more interfaces onto one.
CREATE FUNCTION running_limit() RETURNS integer LANGUAGE sql IMMUTABLE AS $$ SELECT 1023 $$;

CREATE FUNCTION has_room(runner runner_healthy, load runner_load, wanted sandbox) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT load.sandboxes < runner.address_slots
        AND (wanted.desired_state <> 'started' OR (
            load.running < running_limit()
            AND load.cpu + wanted.cpu <= runner.cpu_capacity
            AND load.memory_gib + wanted.memory_gib <= runner.memory_capacity_gib
            AND load.gpu + wanted.gpu <= runner.gpu_capacity))
        AND load.disk_gib + wanted.disk_gib <= runner.disk_capacity_gib
        AND wanted.gpu <= runner.gpu_capacity
        AND (wanted.architecture IS NULL OR wanted.architecture = runner.architecture)
        AND (wanted.gpu = 0 OR cardinality(wanted.gpu_types) = 0 OR runner.gpu_type = ANY (wanted.gpu_types))
$$;

-- The next free address after the last one given, so that a freed address rests for as long as possible.
CREATE FUNCTION next_slot(runner uuid, after_slot integer, slots integer) RETURNS integer LANGUAGE sql STABLE AS $$
    -- In the select list the series is made only as far as it is read; in FROM all of it would be.
    SELECT candidate FROM (SELECT (after_slot + generate_series(1, slots) - 1) % slots + 1 AS candidate) AS ring
    WHERE NOT EXISTS (SELECT FROM sandbox_placement p WHERE p.runner_id = runner AND p.slot = candidate)
    LIMIT 1
$$;

-- The GPUs of a sandbox that is about to be placed: those that nobody has, and of these the ones that fewest stopped
-- sandboxes will want back. Under the lock of the runner's load row, has_room() sees to it that there are enough.
CREATE FUNCTION choose_gpus(runner uuid, wanted integer, capacity integer) RETURNS integer[] LANGUAGE sql STABLE AS $$
    SELECT coalesce(array_agg(device ORDER BY device), '{}') FROM (
        SELECT device FROM generate_series(0, capacity - 1) AS device
            LEFT JOIN sandbox_placement p ON p.runner_id = runner AND device = ANY (p.gpu_devices)
        GROUP BY device ORDER BY count(*) FILTER (WHERE p.gpu > 0), count(p.sandbox_id), device LIMIT wanted) AS chosen
$$;

-- Books the sandbox on this runner if it has room, under the lock of the runner's load row. True when booked.
-- Caller holds the sandbox row's lock (it inserted it, or FOR UPDATE).
CREATE FUNCTION book(wanted sandbox, target uuid) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    load runner_load;
    runner runner_healthy;
    free_slot integer;
    running integer := (wanted.desired_state = 'started')::integer;
BEGIN
    SELECT * INTO load FROM runner_load WHERE runner_id = target FOR UPDATE;
    SELECT * INTO runner FROM runner_healthy WHERE id = target;
    IF runner.id IS NULL OR NOT has_room(runner, load, wanted) THEN
        RETURN false;
    END IF;
    free_slot := next_slot(target, load.last_slot, runner.address_slots);
    UPDATE runner_load SET last_slot = free_slot WHERE runner_id = target;
    INSERT INTO sandbox_placement (sandbox_id, runner_id, slot, cpu, memory_gib, disk_gib, gpu, gpu_devices)
        VALUES (wanted.id, target, free_slot, running * wanted.cpu, running * wanted.memory_gib, wanted.disk_gib, running * wanted.gpu,
            choose_gpus(target, wanted.gpu, runner.gpu_capacity))
    ON CONFLICT (sandbox_id) DO UPDATE SET runner_id = excluded.runner_id, slot = excluded.slot, cpu = excluded.cpu,
        memory_gib = excluded.memory_gib, disk_gib = excluded.disk_gib, gpu = excluded.gpu, gpu_devices = excluded.gpu_devices,
        epoch = sandbox_placement.epoch + 1, placed_at = now();
    RETURN true;
END
$$;

-- Chooses the best runner for a new sandbox and books it there; NULL when none has room, and the row waits as pending.
CREATE FUNCTION place(target uuid) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    wanted sandbox;
    candidate uuid;
BEGIN
    SELECT * INTO wanted FROM sandbox WHERE id = target AND desired_state <> 'destroyed' FOR UPDATE;
    IF wanted.id IS NULL OR EXISTS (SELECT FROM sandbox_placement WHERE sandbox_id = target) THEN
        RETURN NULL;
    END IF;
    FOR candidate IN
        SELECT h.id FROM runner_healthy h JOIN runner_load l ON l.runner_id = h.id
        WHERE h.region_id = wanted.region_id AND has_room(h, l, wanted)
        ORDER BY EXISTS (SELECT FROM runner_image i WHERE i.runner_id = h.id AND i.image = wanted.image) DESC,
            greatest(l.cpu::numeric / greatest(h.cpu_capacity, 1), l.memory_gib::numeric / greatest(h.memory_capacity_gib, 1),
                l.disk_gib::numeric / greatest(h.disk_capacity_gib, 1)), h.id
    LOOP
        -- A failed booking must give back the runner's lock: holding it while waiting for the next would be a deadlock
        -- between two placements that try their runners in different order. Leaving the block by an error does that.
        BEGIN
            IF book(wanted, candidate) THEN
                RETURN candidate;
            END IF;
            RAISE EXCEPTION USING ERRCODE = 'MRT03', MESSAGE = 'this runner is full';
        EXCEPTION WHEN SQLSTATE 'MRT03' THEN
            NULL;
        END;
    END LOOP;
    INSERT INTO sandbox_queue (sandbox_id, region_id, created_at) VALUES (target, wanted.region_id, wanted.created_at)
        ON CONFLICT DO NOTHING;
    PERFORM pg_notify('pending', wanted.region_id);
    RETURN NULL;
END
$$;

-- A started sandbox whose compute was released, or that is resized, books it anew on its own runner.
CREATE FUNCTION book_compute(target uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    wanted sandbox;
    held sandbox_placement;
    load runner_load;
    capacity runner_status;
BEGIN
    SELECT * INTO wanted FROM sandbox WHERE id = target;
    SELECT * INTO held FROM sandbox_placement WHERE sandbox_id = target FOR UPDATE;
    IF held.sandbox_id IS NULL
        OR (held.cpu, held.memory_gib, held.disk_gib, held.gpu) = (wanted.cpu, wanted.memory_gib, wanted.disk_gib, wanted.gpu) THEN
        RETURN;
    END IF;
    SELECT * INTO load FROM runner_load WHERE runner_id = held.runner_id FOR UPDATE;
    SELECT * INTO capacity FROM runner_status WHERE runner_id = held.runner_id;
    PERFORM refuse_over_capacity('running sandboxes', load.running - (held.cpu > 0)::integer, 1, running_limit());
    PERFORM refuse_over_capacity('CPUs', load.cpu - held.cpu, wanted.cpu, capacity.cpu_capacity);
    PERFORM refuse_over_capacity('GiB of memory', load.memory_gib - held.memory_gib, wanted.memory_gib, capacity.memory_capacity_gib);
    PERFORM refuse_over_capacity('GiB of disk', load.disk_gib - held.disk_gib, wanted.disk_gib, capacity.disk_capacity_gib);
    PERFORM refuse_over_capacity('GPUs', load.gpu - held.gpu, wanted.gpu, capacity.gpu_capacity);
    IF EXISTS (SELECT FROM sandbox_placement p WHERE p.runner_id = held.runner_id AND p.sandbox_id <> target AND p.gpu > 0
            AND p.gpu_devices && held.gpu_devices) THEN
        RAISE EXCEPTION 'the sandbox''s GPUs (% on its runner) are in use by another sandbox', array_to_string(held.gpu_devices, ', ')
            USING ERRCODE = 'MRT02',
                HINT = 'Stop or delete that one, or make a new sandbox: one that exists keeps the GPUs it was made with.';
    END IF;
    UPDATE sandbox_placement SET cpu = wanted.cpu, memory_gib = wanted.memory_gib, disk_gib = wanted.disk_gib, gpu = wanted.gpu
        WHERE sandbox_id = target;
END
$$;

-- A stopped sandbox keeps its disk booked, so a larger disk is booked before it is promised.
CREATE FUNCTION book_disk(target uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    wanted integer := (SELECT disk_gib FROM sandbox WHERE id = target);
    held sandbox_placement;
    used integer;
BEGIN
    SELECT * INTO held FROM sandbox_placement WHERE sandbox_id = target FOR UPDATE;
    IF held.sandbox_id IS NULL THEN
        RETURN;
    END IF;
    SELECT disk_gib INTO used FROM runner_load WHERE runner_id = held.runner_id FOR UPDATE;
    PERFORM refuse_over_capacity('GiB of disk', used - held.disk_gib, wanted,
        (SELECT disk_capacity_gib FROM runner_status WHERE runner_id = held.runner_id));
    UPDATE sandbox_placement SET disk_gib = wanted WHERE sandbox_id = target;
END
$$;
CREATE FUNCTION refuse_over_capacity(what text, used integer, wanted integer, capacity integer) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF wanted > 0 AND used + wanted > capacity THEN
        RAISE EXCEPTION 'the sandbox''s runner has no room: % of % % are booked and % more are needed', used, capacity, what, wanted
            USING ERRCODE = 'MRT02', HINT = 'Stop or delete sandboxes on this runner, or raise what it may promise (--cpu-overcommit, --memory-overcommit).';
    END IF;
END
$$;

-- Runner: take waiting sandboxes of my region, oldest first, as far as I have room. Returns their ids. One that does not
-- fit does not keep younger ones waiting; a runner that may be given nothing takes nothing.
-- The rows are read under one snapshot and locked in portions, so one may have been placed between its reading and its
-- locking. Placing does not change the locked row, so Postgres does not look again: the loop does.
CREATE FUNCTION claim_pending(most integer) RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    me uuid := require_runner();
    my_region text := (SELECT region_id FROM runner WHERE id = me);
    wanted sandbox;
BEGIN
    FOR wanted IN
        SELECT s.* FROM sandbox_queue q JOIN sandbox s ON s.id = q.sandbox_id
            CROSS JOIN runner_healthy h JOIN runner_load l ON l.runner_id = h.id
        WHERE h.id = me AND q.region_id = my_region AND s.desired_state <> 'destroyed' AND has_room(h, l, s)
        ORDER BY q.created_at LIMIT most FOR UPDATE OF s SKIP LOCKED
    LOOP
        CONTINUE WHEN EXISTS (SELECT FROM sandbox_placement p WHERE p.sandbox_id = wanted.id);
        IF book(wanted, me) THEN
            RETURN NEXT wanted.id;
        END IF;
    END LOOP;
END
$$;

-- Runner: take over what dead runners of my region were running. A stopped sandbox waits for its runner, which has its
-- disk; a destroyed one is let go of. Returns the ids taken.
-- An outage of the database or the network lets everybody's lease lapse, and whoever comes back first must not take the
-- others' running sandboxes: so nothing is taken before my own lease has been held for the time of grace.
CREATE FUNCTION reclaim_orphans(most integer) RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    me uuid := require_runner();
    my_region text := (SELECT region_id FROM runner WHERE id = me);
    wanted sandbox;
    held timestamptz := (SELECT held_since FROM runner_lease WHERE runner_id = me);
BEGIN
    -- For the event of what is let go of.
    PERFORM set_config('martlet.cause', 'its runner''s lease expired; what is left there is removed when it comes back', true);
    -- The status too: a report that is under way has it locked, and is about to lock the placement.
    FOR wanted IN
        SELECT s.* FROM sandbox s JOIN sandbox_placement p ON p.sandbox_id = s.id JOIN sandbox_status t ON t.sandbox_id = s.id
            JOIN runner_lease l ON l.runner_id = p.runner_id JOIN region g ON g.id = s.region_id
            CROSS JOIN runner_healthy h JOIN runner_load d ON d.runner_id = h.id
        WHERE h.id = me AND s.region_id = my_region AND p.runner_id <> me
            AND (s.desired_state = 'destroyed' OR s.desired_state = 'started' AND has_room(h, d, s))
            AND greatest(l.expires_at, held) < now() - make_interval(secs => g.grace_seconds)
        ORDER BY s.created_at LIMIT most FOR UPDATE OF s, t, p SKIP LOCKED
    LOOP
        IF wanted.desired_state = 'destroyed' THEN
            DELETE FROM sandbox_placement WHERE sandbox_id = wanted.id;
            UPDATE sandbox SET destroyed_at = now() WHERE id = wanted.id;
        ELSIF book(wanted, me) THEN
            PERFORM record_event('sandbox.reclaimed', wanted.id, wanted.organization_id, NULL, 'creating',
                'its runner''s lease expired; it starts anew from its snapshot');
            RETURN NEXT wanted.id;
        END IF;
    END LOOP;
END
$$;

-- Runner: nothing of the sandbox is left on my host. False when the placement is no longer mine.
CREATE FUNCTION release(target uuid, held_epoch bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    wanted sandbox;
BEGIN
    SELECT * INTO wanted FROM sandbox WHERE id = target FOR UPDATE;
    DELETE FROM sandbox_placement WHERE sandbox_id = target AND runner_id = require_runner() AND epoch = held_epoch;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF wanted.desired_state = 'destroyed' THEN
        UPDATE sandbox SET destroyed_at = now() WHERE id = target;
    END IF;
    -- Any other is pending now. It is not placed here, under the lock of this runner's load: runners claim it, woken by
    -- placement_changed.
    RETURN true;
END
$$;

-- Status ---------------------------------------------------------------------------------------------------------

-- What a runner may report after what. The same table is in Domain (ObservedState); a test compares them.
CREATE FUNCTION may_become(old_state text, new_state text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT old_state = new_state OR new_state = 'error' OR new_state = 'destroying' OR CASE old_state
        WHEN 'creating' THEN new_state IN ('pulling_snapshot', 'starting', 'started', 'stopped')
        WHEN 'pulling_snapshot' THEN new_state IN ('creating', 'starting', 'started', 'stopped')
        WHEN 'starting' THEN new_state IN ('started', 'stopping', 'stopped', 'creating', 'pulling_snapshot')
        WHEN 'started' THEN new_state IN ('starting', 'stopping', 'stopped', 'resizing', 'creating')
        WHEN 'stopping' THEN new_state IN ('started', 'stopped', 'starting')
        WHEN 'stopped' THEN new_state IN ('starting', 'started', 'resizing', 'creating', 'pulling_snapshot')
        WHEN 'resizing' THEN new_state IN ('started', 'stopped', 'starting', 'stopping')
        WHEN 'error' THEN new_state IN ('creating', 'pulling_snapshot', 'starting', 'started', 'stopping', 'stopped')
        ELSE false
    END
$$;

CREATE FUNCTION status_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- A new epoch is a new life: any state may follow.
    IF NEW.epoch = OLD.epoch AND NOT may_become(OLD.state, NEW.state) THEN
        RAISE EXCEPTION 'a sandbox that is % cannot be reported %', OLD.state, NEW.state
            USING ERRCODE = 'check_violation', CONSTRAINT = 'status_transition_is_legal';
    END IF;
    IF NEW.state IS DISTINCT FROM OLD.state THEN
        NEW.state_changed_at := now();
    END IF;
    IF NEW.state <> 'error' THEN
        NEW.error_reason := NULL;
        NEW.recoverable := false;
        NEW.timed_out := false;
    END IF;
    IF NEW.state IN ('started', 'stopped', 'error') THEN
        NEW.deadline_at := NULL;
    END IF;
    NEW.updated_at := now();
    RETURN NEW;
END
$$;
CREATE TRIGGER status_changes BEFORE UPDATE ON sandbox_status FOR EACH ROW EXECUTE FUNCTION status_changes();

CREATE FUNCTION status_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    asked sandbox;
BEGIN
    IF NEW.state IS DISTINCT FROM OLD.state OR NEW.observed_generation <> OLD.observed_generation THEN
        -- The wish is read under the placement's lock: a start that holds it has booked what must not be freed below.
        PERFORM FROM sandbox_placement WHERE sandbox_id = NEW.sandbox_id FOR UPDATE;
        SELECT * INTO asked FROM sandbox WHERE id = NEW.sandbox_id;
        IF NEW.state <> OLD.state THEN
            PERFORM record_event('sandbox.state.updated', NEW.sandbox_id, asked.organization_id, OLD.state, NEW.state, NEW.error_reason);
        END IF;
        -- Compute of what does not run is free for others. What failed under the newest wish will not run by itself; but it
        -- may run for a moment longer, which a GPU does not bear.
        IF (NEW.state = 'stopped' AND asked.desired_state <> 'started')
            OR (NEW.state = 'error' AND NEW.observed_generation >= asked.generation) THEN
            UPDATE sandbox_placement SET cpu = 0, memory_gib = 0, gpu = CASE NEW.state WHEN 'stopped' THEN 0 ELSE gpu END
                WHERE sandbox_id = NEW.sandbox_id AND epoch = NEW.epoch AND (cpu > 0 OR gpu > 0 AND NEW.state = 'stopped');
            IF FOUND THEN
                PERFORM pg_notify('pending', '');
            END IF;
        -- What runs is booked, room or not. A deadline may have freed it while its runner was still at it.
        ELSIF NEW.state IN ('starting', 'started') THEN
            UPDATE sandbox_placement SET cpu = asked.cpu, memory_gib = asked.memory_gib, gpu = asked.gpu
                WHERE sandbox_id = NEW.sandbox_id AND epoch = NEW.epoch
                    AND (cpu, memory_gib, gpu) <> (asked.cpu, asked.memory_gib, asked.gpu);
        END IF;
        PERFORM pg_notify('status', NEW.sandbox_id::text);
        PERFORM pg_notify('route', 'sandbox:' || NEW.sandbox_id);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER status_changed AFTER UPDATE ON sandbox_status FOR EACH ROW EXECUTE FUNCTION status_changed();

-- Time -----------------------------------------------------------------------------------------------------------

CREATE FUNCTION report_activity(ids uuid[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE sandbox_activity SET last_activity_at = now()
    FROM (SELECT sandbox_id FROM sandbox_activity WHERE sandbox_id = ANY (ids) ORDER BY sandbox_id FOR UPDATE) AS held
    WHERE sandbox_activity.sandbox_id = held.sandbox_id
$$;

-- Whether the runner has had its time. A change that it has not begun on has a deadline too: its engine may be away. After
-- its lease had lapsed since, it gets another minute.
CREATE FUNCTION is_overdue(asked sandbox, seen sandbox_status, held_since timestamptz) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT asked.desired_state <> 'destroyed'
        AND (seen.deadline_at IS NOT NULL OR seen.observed_generation < asked.generation)
        AND greatest(coalesce(seen.deadline_at, asked.desired_changed_at + interval '5 minutes'), held_since + interval '1 minute') < now()
$$;

-- Runner: apply the timers that are due on my sandboxes; returns how many rows changed. Nothing is due while my lease has
-- lapsed: signs of use were lost then, and count again from the day the lease is held.
CREATE FUNCTION expire_timers() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    me uuid := require_runner();
    held timestamptz := (SELECT held_since FROM runner_lease WHERE runner_id = me AND expires_at > now());
    changed integer;
    total integer := 0;
BEGIN
    IF held IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM set_config('martlet.actor', 'timer', true);
    PERFORM set_config('martlet.cause', 'auto-stop', true);
    -- An ephemeral sandbox (auto-delete 0) is destroyed where another is stopped.
    UPDATE sandbox s SET desired_state = CASE s.auto_delete_minutes WHEN 0 THEN 'destroyed' ELSE 'stopped' END
        FROM sandbox_status t, sandbox_activity a
        WHERE t.sandbox_id = s.id AND a.sandbox_id = s.id AND t.runner_id = me AND s.desired_state = 'started'
            AND t.state = 'started' AND s.auto_stop_minutes > 0
            AND greatest(a.last_activity_at, t.started_at, held) < now() - make_interval(mins => s.auto_stop_minutes);
    GET DIAGNOSTICS changed = ROW_COUNT;
    total := total + changed;
    PERFORM set_config('martlet.cause', 'auto-delete', true);
    UPDATE sandbox s SET desired_state = 'destroyed'
        FROM sandbox_status t
        WHERE t.sandbox_id = s.id AND t.runner_id = me AND s.desired_state = 'stopped' AND t.state = 'stopped'
            AND s.auto_delete_minutes >= 0 AND t.state_changed_at <= now() - make_interval(mins => s.auto_delete_minutes);
    GET DIAGNOSTICS changed = ROW_COUNT;
    total := total + changed;
    PERFORM set_config('martlet.cause', 'a deadline passed', true);
    -- Placements before the load row, as everybody else locks them; status_changed takes them one by one.
    PERFORM FROM sandbox_placement p JOIN sandbox_status t ON t.sandbox_id = p.sandbox_id JOIN sandbox s ON s.id = p.sandbox_id
        WHERE t.runner_id = me AND is_overdue(s, t, held) ORDER BY p.sandbox_id FOR UPDATE OF p;
    UPDATE sandbox_status t SET state = 'error', observed_generation = s.generation, recoverable = true, timed_out = true,
            error_reason = CASE WHEN t.deadline_at IS NULL
                THEN format('its runner did not begin to act on the change of %s; the runner''s log says what it waited for',
                    s.desired_changed_at)
                ELSE format('%s took longer than its deadline (%s); the runner''s log says what it waited for', t.state, t.deadline_at) END
        FROM sandbox s
        WHERE s.id = t.sandbox_id AND t.runner_id = me AND is_overdue(s, t, held);
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN total + changed;
END
$$;

-- Api: what needs no runner. Time to live, queue time-outs, old sandboxes. Safe to run by many at once.
CREATE FUNCTION housekeep() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    changed integer;
    total integer := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('martlet.housekeep')) THEN
        RETURN 0;
    END IF;
    PERFORM set_config('martlet.actor', 'timer', true);
    PERFORM set_config('martlet.cause', 'time to live', true);
    UPDATE sandbox SET desired_state = 'destroyed' WHERE auto_destroy_at < now() AND desired_state <> 'destroyed';
    GET DIAGNOSTICS changed = ROW_COUNT;
    total := total + changed;
    PERFORM set_config('martlet.cause', 'waited too long for a runner', true);
    UPDATE sandbox s SET desired_state = 'destroyed', queue_timed_out_at = now()
        FROM sandbox_queue q
        WHERE s.id = q.sandbox_id AND s.desired_state <> 'destroyed' AND s.queue_timeout_minutes IS NOT NULL
            AND s.created_at < now() - make_interval(mins => s.queue_timeout_minutes)
            AND NOT EXISTS (SELECT FROM sandbox_placement p WHERE p.sandbox_id = s.id);
    GET DIAGNOSTICS changed = ROW_COUNT;
    total := total + changed;
    DELETE FROM sandbox WHERE id IN (SELECT id FROM sandbox WHERE destroyed_at < now() - interval '24 hours' LIMIT 1000);
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN total + changed;
END
$$;

-- Api: old events go, a portion at a time. Apart from housekeep(), so that however many there are, nothing else waits for it.
CREATE FUNCTION purge_events() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    changed integer;
BEGIN
    DELETE FROM event WHERE id IN
        (SELECT id FROM event WHERE at < now() - interval '30 days' ORDER BY at LIMIT 10000 FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END
$$;
