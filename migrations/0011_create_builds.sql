-- Images that are made from a Dockerfile, and sandboxes that are made from an image. Both are snapshots: the work is a job of
-- theirs ("snapshot_job"). Here is what builds need besides: the files they are made of, what they print, and the sharing.

CREATE TABLE build_context (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES organization (id) ON DELETE CASCADE,
    hash text NOT NULL CHECK (hash ~ '^[0-9a-f]{32}$'),
    size_bytes bigint NOT NULL DEFAULT 0 CHECK (size_bytes >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    completed_at timestamptz,
    last_used_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE build_context IS 'An archive of files for builds, or one on its way in. Written by api; read by api, and by runners through read_context(); housekeep_builds() deletes what was not finished within an hour or not used for a week.';
COMMENT ON COLUMN build_context.hash IS 'As the client says: it names the context within its own organization only, and what is complete is never replaced.';
CREATE UNIQUE INDEX build_context_is_unique ON build_context (organization_id, hash) WHERE completed_at IS NOT NULL;
CREATE INDEX build_context_by_use ON build_context (last_used_at);

CREATE TABLE build_context_part (
    context_id uuid NOT NULL REFERENCES build_context (id) ON DELETE CASCADE,
    number integer NOT NULL CHECK (number BETWEEN 1 AND 10000),
    digest text NOT NULL,
    content bytea NOT NULL,
    PRIMARY KEY (context_id, number)
);
COMMENT ON TABLE build_context_part IS 'The bytes of a context, in order of numbers. Written by put_context_part(); read by read_context(); dies with the context.';
-- Read in slices, which is cheap only where it is not compressed.
ALTER TABLE build_context_part ALTER COLUMN content SET STORAGE EXTERNAL;

ALTER TABLE snapshot
    ADD COLUMN hidden boolean NOT NULL DEFAULT false,
    ADD COLUMN definition text CHECK (definition ~ '^[0-9a-f]{64}$'),
    ADD COLUMN built_by uuid,
    ADD CONSTRAINT hidden_snapshot_has_an_owner CHECK (NOT hidden OR organization_id IS NOT NULL AND NOT general);
COMMENT ON COLUMN snapshot.hidden IS 'Made by request_image() for sandboxes that are made from an image or a Dockerfile; in no list, counted by no ceiling, deleted by housekeep_builds() once nobody needs it.';
COMMENT ON COLUMN snapshot.definition IS 'Hash of what it is made from: equal ones of an organization share one build.';
COMMENT ON COLUMN snapshot.built_by IS 'The snapshot whose job builds, or built, this one''s image: itself, or one that was being built from the same definition already.';
CREATE INDEX snapshot_by_definition ON snapshot (organization_id, definition) WHERE definition IS NOT NULL;
CREATE INDEX snapshot_by_builder ON snapshot (built_by) WHERE built_by IS NOT NULL;
CREATE INDEX hidden_snapshot_by_age ON snapshot (created_at) WHERE hidden;

CREATE TABLE build_log (
    snapshot_id uuid NOT NULL REFERENCES snapshot (id) ON DELETE CASCADE,
    starts_at bigint NOT NULL,
    content bytea NOT NULL,
    PRIMARY KEY (snapshot_id, starts_at)
);
COMMENT ON TABLE build_log IS 'What the build of a snapshot printed, in order; starts_at counts bytes. Written by append_build_log(); read by api; dies with the snapshot.';

-- Contexts -------------------------------------------------------------------------------------------------------

-- Api: keeps one part of a context that is on its way in; the same number again replaces it. False when there is no such upload.
CREATE FUNCTION put_context_part(context uuid, owner uuid, part integer, part_digest text, bytes bytea, context_limit bigint,
    organization_limit bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    others bigint;
    total bigint;
BEGIN
    -- One part of an organization at a time, so that the sums are right.
    PERFORM pg_advisory_xact_lock(hashtextextended('martlet.contexts.' || owner, 0));
    PERFORM FROM build_context WHERE id = context AND organization_id = owner AND completed_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO build_context_part (context_id, number, digest, content) VALUES (context, part, part_digest, bytes)
        ON CONFLICT (context_id, number) DO UPDATE SET digest = excluded.digest, content = excluded.content;
    SELECT sum(octet_length(content)) INTO total FROM build_context_part WHERE context_id = context;
    SELECT coalesce(sum(size_bytes), 0) INTO others FROM build_context WHERE organization_id = owner AND id <> context;
    IF total > context_limit THEN
        RAISE EXCEPTION 'the build context is larger than % MiB', context_limit >> 20
            USING ERRCODE = 'MRT01', HINT = 'Leave out what the Dockerfile does not copy.';
    ELSIF others + total > organization_limit THEN
        RAISE EXCEPTION 'the organization''s build contexts would be larger than % MiB in all', organization_limit >> 20
            USING ERRCODE = 'MRT01',
                HINT = 'What no build uses for a week is deleted by itself; an operator can delete rows of build_context.';
    END IF;
    UPDATE build_context SET size_bytes = total, last_used_at = now() WHERE id = context;
    RETURN true;
END
$$;

-- One build for equal definitions -----------------------------------------------------------------------------------

-- After a_snapshot_wish, which makes it pending. One that is being built already, or was, is not built again: then this one
-- follows it and has no job. The lock lets equal ones come one by one; FOR SHARE makes the other's end wait for us.
CREATE FUNCTION snapshot_joins_build() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    twin snapshot;
BEGIN
    NEW.definition := encode(sha256(convert_to(NEW.build_info->>'dockerfileContent' || E'\n' || coalesce((
        SELECT string_agg(hash, ' ' ORDER BY hash) FROM jsonb_array_elements_text(NEW.build_info->'contextHashes') AS hash), ''), 'UTF8')),
        'hex');
    NEW.built_by := NEW.id;
    PERFORM pg_advisory_xact_lock(hashtextextended('martlet.build.' || NEW.organization_id || NEW.definition, 0));
    SELECT * INTO twin FROM snapshot s
        WHERE s.organization_id = NEW.organization_id AND s.definition = NEW.definition AND s.region_ids = NEW.region_ids
            AND (s.state = 'active' OR s.state IN ('pending', 'building') AND s.built_by = s.id)
        ORDER BY s.state = 'active' DESC LIMIT 1 FOR SHARE;
    IF twin.state = 'active' THEN
        NEW.state := 'active';
        NEW.image := twin.image;
        NEW.architecture := twin.architecture;
        NEW.image_entrypoint := twin.image_entrypoint;
        NEW.size_bytes := twin.size_bytes;
        NEW.activated_at := now();
        NEW.built_by := twin.built_by;
    ELSIF twin.id IS NOT NULL THEN
        NEW.state := 'building';
        NEW.built_by := twin.id;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER b_snapshot_joins_build BEFORE INSERT ON snapshot
    FOR EACH ROW WHEN (NEW.build_info IS NOT NULL AND NEW.image IS NULL) EXECUTE FUNCTION snapshot_joins_build();

-- Those that follow end as it does; if it ends without an end (deleted, deactivated), the eldest of them is built.
CREATE FUNCTION snapshot_build_ended() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.state = 'active' THEN
        UPDATE snapshot SET state = 'active', error_reason = NULL, image = NEW.image, architecture = NEW.architecture,
                image_entrypoint = NEW.image_entrypoint, size_bytes = NEW.size_bytes, activated_at = now()
            WHERE built_by = NEW.id AND id <> NEW.id AND state = 'building';
    ELSIF TG_OP = 'UPDATE' AND NEW.state IN ('error', 'build_failed') THEN
        UPDATE snapshot SET state = NEW.state, error_reason = NEW.error_reason
            WHERE built_by = NEW.id AND id <> NEW.id AND state = 'building';
    ELSIF TG_OP = 'DELETE' OR NEW.state = 'inactive' THEN
        PERFORM hand_on_build(OLD.id);
    END IF;
    RETURN NULL;
END
$$;
CREATE FUNCTION hand_on_build(leader uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    heir uuid := (SELECT id FROM snapshot WHERE built_by = leader AND id <> leader AND state = 'building' ORDER BY created_at, id LIMIT 1);
BEGIN
    UPDATE snapshot SET built_by = heir WHERE built_by = leader AND id <> leader AND state = 'building';
    UPDATE snapshot SET state = 'pending' WHERE id = heir;
END
$$;
CREATE TRIGGER snapshot_build_ended AFTER UPDATE ON snapshot
    FOR EACH ROW WHEN (OLD.state IN ('pending', 'building') AND NEW.built_by = NEW.id AND NEW.state <> OLD.state)
    EXECUTE FUNCTION snapshot_build_ended();
CREATE TRIGGER snapshot_build_deleted AFTER DELETE ON snapshot
    FOR EACH ROW WHEN (OLD.state IN ('pending', 'building') AND OLD.built_by = OLD.id) EXECUTE FUNCTION snapshot_build_ended();

-- Who is tried again by itself is built by itself.
CREATE FUNCTION snapshot_builds_itself() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.built_by := NEW.id;
    RETURN NEW;
END
$$;
CREATE TRIGGER b_snapshot_builds_itself BEFORE UPDATE ON snapshot
    FOR EACH ROW WHEN (NEW.build_info IS NOT NULL AND NEW.state = 'pending' AND OLD.state <> 'pending' AND NEW.built_by <> NEW.id)
    EXECUTE FUNCTION snapshot_builds_itself();

-- Sandboxes of an image ------------------------------------------------------------------------------------------

-- Api: throws unless all of these were uploaded, and keeps them for another week.
CREATE FUNCTION use_contexts(owner uuid, hashes text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    missing text;
BEGIN
    UPDATE build_context SET last_used_at = now() WHERE organization_id = owner AND hash = ANY (hashes) AND completed_at IS NOT NULL;
    SELECT wanted INTO missing FROM unnest(hashes) AS wanted
        WHERE NOT EXISTS (SELECT FROM build_context c WHERE c.organization_id = owner AND c.hash = wanted AND c.completed_at IS NOT NULL)
        LIMIT 1;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'buildInfo.contextHashes names %, which was not uploaded', missing
            USING ERRCODE = 'check_violation', CONSTRAINT = 'context_is_uploaded',
                HINT = 'Upload it first, with the credentials of GET /object-storage/push-access.';
    END IF;
END
$$;

-- Most images of an organization that sandboxes alone were made from, and so the disk that they take in the registry.
CREATE FUNCTION hidden_snapshot_limit() RETURNS integer LANGUAGE sql IMMUTABLE AS $$ SELECT 1000 $$;

-- Api: the hidden snapshot of this image or build in this region: one that is there or on its way, else a new one. An image that
-- the operator gives to everybody, as it lies in the engines, needs no work.
CREATE FUNCTION request_image(owner uuid, region text, wanted_image text, wanted_build jsonb) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    made uuid;
    given text := (SELECT image FROM snapshot WHERE general AND image = wanted_image AND num_nonnulls(image_name, build_info) = 0 LIMIT 1);
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(
        'martlet.image.' || owner || region || coalesce(wanted_image, wanted_build::text), 0));
    SELECT id INTO made FROM snapshot
        WHERE organization_id = owner AND hidden AND region_ids = ARRAY[region] AND build_info IS NOT DISTINCT FROM wanted_build
            AND (wanted_image IS NULL OR CASE WHEN given IS NULL THEN image_name = wanted_image ELSE image = given AND image_name IS NULL END)
            AND state IN ('pending', 'pulling', 'building', 'active') AND created_at > now() - interval '1 day'
        ORDER BY created_at DESC LIMIT 1;
    IF made IS NULL THEN
        -- By the name that is given below: what later versions hide is not counted.
        IF (SELECT count(*) FROM snapshot WHERE organization_id = owner AND hidden AND starts_with(name, 'image ')) >= hidden_snapshot_limit() THEN
            RAISE EXCEPTION 'the organization has sandboxes from % different images or builds, the limit', hidden_snapshot_limit()
                USING ERRCODE = 'MRT01',
                    HINT = 'Delete sandboxes: an image that none needs goes after a day. Or make a snapshot, and sandboxes from it.';
        END IF;
        made := gen_random_uuid();
        INSERT INTO snapshot (id, organization_id, name, hidden, image, image_name, build_info, region_ids)
            VALUES (made, owner, 'image ' || made, true, given, CASE WHEN given IS NULL THEN wanted_image END, wanted_build, ARRAY[region]);
    END IF;
    RETURN made;
END
$$;

-- What is not there yet is no image; place() waits for it, and FOR SHARE makes the end of the work wait for us.
CREATE FUNCTION sandbox_takes_image() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    source snapshot;
BEGIN
    SELECT * INTO source FROM snapshot WHERE id = NEW.snapshot_id AND hidden FOR SHARE;
    IF FOUND THEN
        NEW.snapshot_name := NULL;
        NEW.image := CASE source.state WHEN 'active' THEN source.image ELSE 'pending:' || source.id END;
        NEW.architecture := CASE source.state WHEN 'active' THEN source.architecture END;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER a_takes_image BEFORE INSERT ON sandbox
    FOR EACH ROW WHEN (NEW.snapshot_id IS NOT NULL) EXECUTE FUNCTION sandbox_takes_image();

CREATE FUNCTION snapshot_serves_sandboxes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    waiting uuid;
BEGIN
    FOR waiting IN SELECT id FROM sandbox
        WHERE snapshot_id = NEW.id AND image = 'pending:' || NEW.id AND desired_state <> 'destroyed' ORDER BY created_at
    LOOP
        IF NEW.state = 'active' THEN
            UPDATE sandbox SET image = NEW.image, architecture = NEW.architecture WHERE id = waiting;
            PERFORM place(waiting);
        END IF;
        PERFORM pg_notify('status', waiting::text);
    END LOOP;
    RETURN NULL;
END
$$;
CREATE TRIGGER snapshot_serves_sandboxes AFTER UPDATE ON snapshot
    FOR EACH ROW WHEN (NEW.hidden AND NEW.state <> OLD.state) EXECUTE FUNCTION snapshot_serves_sandboxes();

-- What waits for its image waits for no runner.
ALTER FUNCTION place(uuid) RENAME TO place_now;
CREATE FUNCTION place(target uuid) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM sandbox WHERE id = target AND starts_with(image, 'pending:')) THEN
        RETURN NULL;
    END IF;
    RETURN place_now(target);
END
$$;

-- The public state of a sandbox that waits for its image, and why it waits in vain.
CREATE FUNCTION waiting_state(image_of uuid) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT CASE
        WHEN state IN ('error', 'build_failed', 'inactive') THEN CASE WHEN build_info IS NULL THEN 'error' ELSE 'build_failed' END
        WHEN build_info IS NULL THEN 'pulling_snapshot'
        WHEN state = 'pending' THEN 'pending_build'
        WHEN state = 'building' THEN 'building_snapshot'
        ELSE 'creating' END
    FROM snapshot WHERE id = image_of
$$;
CREATE FUNCTION waiting_error(image_of uuid) RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT coalesce(error_reason, CASE state WHEN 'inactive' THEN 'its image was discarded before it was made' END)
    FROM snapshot WHERE id = image_of
$$;

ALTER FUNCTION public_state(sandbox, boolean, boolean, sandbox_status) RENAME TO state_with_image;
CREATE FUNCTION public_state(asked sandbox, placed boolean, alive boolean, seen sandbox_status) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN NOT placed AND asked.desired_state <> 'destroyed' AND starts_with(asked.image, 'pending:')
        THEN coalesce(waiting_state(asked.snapshot_id), 'error') ELSE state_with_image(asked, placed, alive, seen) END
$$;

-- As before, with the new state and its reason.
CREATE OR REPLACE VIEW sandbox_view AS
    SELECT s.id, s.organization_id, s.name, s.region_id, s.snapshot_id, s.snapshot_name, s.image, s.architecture, s.os_user,
        s.env, s.labels, s.public, s.cpu, s.memory_gib, s.disk_gib, s.gpu, s.gpu_types, s.network_block_all, s.network_allow_list,
        s.auto_stop_minutes, s.auto_archive_minutes, s.auto_delete_minutes, s.auto_destroy_at, s.queue_timeout_minutes,
        s.desired_state, s.generation, s.created_at, greatest(s.updated_at, t.updated_at) AS updated_at, s.destroyed_at,
        s.queue_timed_out_at, a.last_activity_at, p.runner_id, p.epoch, rs.gpu_type, t.observed_generation, t.daemon_version,
        t.effective, t.started_at, t.state_changed_at,
        public_state(s, p.sandbox_id IS NOT NULL, coalesce(l.expires_at > now(), false), t) AS state,
        CASE WHEN t.state = 'error' AND t.observed_generation >= s.generation THEN t.error_reason
            WHEN starts_with(s.image, 'pending:') THEN waiting_error(s.snapshot_id) END AS error_reason,
        coalesce(t.state = 'error' AND t.observed_generation >= s.generation AND t.recoverable, false) AS recoverable,
        s.record_terminals
    FROM sandbox s
        LEFT JOIN sandbox_activity a ON a.sandbox_id = s.id
        LEFT JOIN sandbox_placement p ON p.sandbox_id = s.id
        LEFT JOIN sandbox_status t ON t.sandbox_id = s.id
        LEFT JOIN runner_lease l ON l.runner_id = p.runner_id
        LEFT JOIN runner_status rs ON rs.runner_id = p.runner_id;

-- As before, with what waits for its image.
CREATE OR REPLACE VIEW stuck_sandboxes AS
    SELECT v.id, v.name, v.state, v.desired_state AS wanted, now() - greatest(v.state_changed_at, s.desired_changed_at) AS for_how_long,
        CASE WHEN starts_with(v.image, 'pending:') THEN coalesce(v.error_reason, 'its image is being made: see view snapshots')
             WHEN v.runner_id IS NULL THEN 'no runner of region ' || v.region_id || ' has room: see view runners'
             WHEN v.state = 'unknown' THEN 'its runner is unreachable: see view runners'
             WHEN v.state = 'error' THEN v.error_reason
             ELSE 'its runner has not got it from ' || t.state || ' to ' || v.desired_state || ' yet: see that runner''s log' END AS why,
        r.name AS runner
    FROM sandbox_view v JOIN sandbox s ON s.id = v.id LEFT JOIN sandbox_status t ON t.sandbox_id = v.id LEFT JOIN runner r ON r.id = v.runner_id
    WHERE v.destroyed_at IS NULL AND v.state <> v.desired_state
        AND coalesce(greatest(v.state_changed_at, s.desired_changed_at), s.created_at) < now() - interval '30 seconds';

-- As before, without the hidden ones: they are counted by no ceiling.
DROP TRIGGER snapshot_within_ceiling ON snapshot;
CREATE OR REPLACE FUNCTION snapshot_within_ceiling() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    ceiling integer;
    used bigint;
BEGIN
    SELECT snapshot_limit INTO ceiling FROM organization WHERE id = NEW.organization_id;
    IF ceiling IS NULL THEN
        RETURN NEW;
    END IF;
    PERFORM FROM organization WHERE id = NEW.organization_id FOR NO KEY UPDATE;
    SELECT count(*) INTO used FROM snapshot WHERE organization_id = NEW.organization_id AND NOT general AND NOT hidden;
    IF used >= ceiling THEN
        RAISE EXCEPTION 'the organization''s ceiling of % snapshots is reached: it has %', ceiling, used
            USING ERRCODE = 'MRT01', CONSTRAINT = 'snapshot_limit',
                HINT = 'Delete snapshots, or raise organization.snapshot_limit (an operator can, in psql).';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER snapshot_within_ceiling BEFORE INSERT ON snapshot FOR EACH ROW WHEN (NOT NEW.general AND NOT NEW.hidden)
    EXECUTE FUNCTION snapshot_within_ceiling();

-- Runner ---------------------------------------------------------------------------------------------------------

-- What all builds of one snapshot may print, in bytes. A runner lets each of them print less, and says so.
CREATE FUNCTION build_log_limit() RETURNS bigint LANGUAGE sql IMMUTABLE AS $$ SELECT 16::bigint << 20 $$;

-- Runner: what the build printed. False when the job is mine no longer.
CREATE FUNCTION append_build_log(job uuid, held_epoch bigint, printed bytea) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    ends_at bigint;
BEGIN
    -- Before the job, as whoever deletes it does.
    PERFORM FROM snapshot WHERE id = job FOR KEY SHARE;
    PERFORM FROM snapshot_job WHERE snapshot_id = job AND epoch = held_epoch AND runner_id = require_runner() FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    SELECT starts_at + octet_length(content) INTO ends_at FROM build_log WHERE snapshot_id = job ORDER BY starts_at DESC LIMIT 1;
    IF coalesce(ends_at, 0) < build_log_limit() THEN
        INSERT INTO build_log (snapshot_id, starts_at, content) VALUES (job, coalesce(ends_at, 0), printed);
    END IF;
    RETURN true;
END
$$;

-- Runner: whether a build that I hold has printed anything before, under another claim.
CREATE FUNCTION has_build_begun(job uuid, held_epoch bigint) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT EXISTS (SELECT FROM build_log l JOIN snapshot_job j ON j.snapshot_id = l.snapshot_id
        WHERE l.snapshot_id = job AND j.epoch = held_epoch AND j.runner_id = require_runner())
$$;

-- Runner: a piece of a context of a build that I hold; empty at the end of the part, no row beyond the last part.
CREATE FUNCTION read_context(job uuid, held_epoch bigint, wanted_hash text, part integer, from_byte integer, most_bytes integer)
RETURNS TABLE (piece bytea) LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT substr(p.content, from_byte + 1, most_bytes) FROM snapshot_job j JOIN snapshot s ON s.id = j.snapshot_id
        JOIN build_context c ON c.organization_id = s.organization_id AND c.hash = wanted_hash AND c.completed_at IS NOT NULL
        JOIN build_context_part p ON p.context_id = c.id AND p.number = part
    WHERE j.snapshot_id = job AND j.epoch = held_epoch AND j.runner_id = require_runner()
        AND s.build_info->'contextHashes' ? wanted_hash
$$;

-- Runner: what a build that I hold may take steps from: the newest images that its organization has built. Never another's: what
-- a step made (a key, say) is its organization's secret.
CREATE FUNCTION build_cache_sources(job uuid, held_epoch bigint) RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT o.image FROM snapshot_job j JOIN snapshot s ON s.id = j.snapshot_id JOIN snapshot o ON o.organization_id = s.organization_id
    WHERE j.snapshot_id = job AND j.epoch = held_epoch AND j.runner_id = require_runner() AND o.build_info IS NOT NULL
        AND o.image IS NOT NULL
    GROUP BY o.image ORDER BY max(o.activated_at) DESC NULLS LAST LIMIT 10
$$;

-- Rights ---------------------------------------------------------------------------------------------------------

GRANT SELECT, INSERT, UPDATE, DELETE ON build_context, build_context_part TO martlet_api;
GRANT SELECT ON build_log TO martlet_api, martlet_operator;
GRANT SELECT, DELETE ON build_context TO martlet_operator;
GRANT EXECUTE ON FUNCTION put_context_part(uuid, uuid, integer, text, bytea, bigint, bigint), use_contexts(uuid, text[]),
    request_image(uuid, text, text, jsonb) TO martlet_api;
GRANT EXECUTE ON FUNCTION append_build_log(uuid, bigint, bytea), build_cache_sources(uuid, bigint), has_build_begun(uuid, bigint),
    read_context(uuid, bigint, text, integer, integer, integer) TO martlet_runner;
GRANT EXECUTE ON FUNCTION public_state(sandbox, boolean, boolean, sandbox_status), waiting_state(uuid), waiting_error(uuid)
    TO martlet_api, martlet_runner, martlet_proxy, martlet_operator;
