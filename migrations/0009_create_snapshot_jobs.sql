-- Snapshots that somebody asks for: the wish is in "snapshot", the work on it in "snapshot_job", which a runner holds by lease.
-- What is finished lies in the internal registry; what is not wanted any more there is in "discarded_repository".

-- The host of images in the internal registry, as rows name it. Each runner reaches that registry by an address of its own
-- and puts it there, so that a registry that moves leaves no row behind. Room Domain (InternalImage) knows the same name.
CREATE FUNCTION internal_registry() RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'registry.martlet.internal' $$;

ALTER TABLE organization
    ADD COLUMN snapshot_limit integer CHECK (snapshot_limit >= 0),
    ADD COLUMN snapshot_deactivation_minutes integer NOT NULL DEFAULT 20160 CHECK (snapshot_deactivation_minutes >= 0);
COMMENT ON COLUMN organization.snapshot_deactivation_minutes IS 'A snapshot that no sandbox was made from for so long becomes inactive; 0 means never.';

ALTER TABLE snapshot
    ALTER COLUMN image DROP NOT NULL,
    ADD COLUMN desired_state text NOT NULL DEFAULT 'active' CHECK (desired_state IN ('active', 'inactive')),
    ADD COLUMN recover_count integer NOT NULL DEFAULT 0,
    ADD COLUMN image_name text CHECK (length(image_name) BETWEEN 1 AND 512),
    ADD COLUMN lost_image text,
    ADD COLUMN build_info jsonb CHECK (jsonb_typeof(build_info) = 'object'),
    ADD COLUMN image_entrypoint text[],
    ADD COLUMN region_ids text[] NOT NULL DEFAULT '{}',
    ADD COLUMN activated_at timestamptz,
    ADD CONSTRAINT active_snapshot_has_an_image CHECK (image IS NOT NULL OR state <> 'active'),
    ADD CONSTRAINT snapshot_has_one_source CHECK (num_nonnulls(image_name, build_info) <= 1);
COMMENT ON TABLE snapshot IS 'An image and defaults to start sandboxes from. Written by bootstrap, api and the operator, its state by triggers and the functions of snapshot_job; read by all; deleted by its owner.';
COMMENT ON COLUMN snapshot.desired_state IS 'UPDATE this to activate or deactivate a snapshot.';
COMMENT ON COLUMN snapshot.recover_count IS 'Adding to it tries a failed snapshot again.';
COMMENT ON COLUMN snapshot.image IS 'What sandboxes start from: an image of the internal registry by digest, or, where neither image_name nor build_info is set, whatever the runner''s engine knows by this name.';
COMMENT ON COLUMN snapshot.image_name IS 'The image that was asked for, as its registry names it: a runner pulls it into the internal registry.';
COMMENT ON COLUMN snapshot.lost_image IS 'Its image that the internal registry has lost: sandboxes that need that get what is made anew.';
COMMENT ON COLUMN snapshot.build_info IS 'What the image is built from; a job of kind build.';
COMMENT ON COLUMN snapshot.image_entrypoint IS 'What the image itself starts with, for readers.';
COMMENT ON COLUMN snapshot.region_ids IS 'Regions whose runners make it and fetch it before anybody needs it; empty means any, and none fetches it early.';

CREATE TABLE snapshot_job (
    snapshot_id uuid PRIMARY KEY REFERENCES snapshot (id) ON DELETE CASCADE,
    kind text NOT NULL CHECK (kind IN ('pull', 'build')),
    runner_id uuid REFERENCES runner (id) ON DELETE SET NULL,
    epoch bigint NOT NULL DEFAULT 0,
    lease_expires_at timestamptz,
    claims integer NOT NULL DEFAULT 0,
    failures integer NOT NULL DEFAULT 0,
    failing text,
    last_error text,
    not_before timestamptz NOT NULL DEFAULT now(),
    step text,
    done_bytes bigint,
    total_bytes bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    idle_since timestamptz NOT NULL DEFAULT now(),
    deadline_at timestamptz NOT NULL DEFAULT now() + interval '6 hours'
);
COMMENT ON TABLE snapshot_job IS 'Work on a snapshot that is not done. Made by triggers on snapshot; written by SQL functions only (claim_snapshot_job, hold_, finish_, fail_); read by api and operator; gone when it is done, failed or not wanted.';
COMMENT ON COLUMN snapshot_job.epoch IS 'Fencing token: another, larger one at every claim; 0 before the first. Whoever was at it before touches no row any more.';
COMMENT ON COLUMN snapshot_job.claims IS 'How often it was begun without an end: a runner that dies of it takes no others with it for ever.';
COMMENT ON COLUMN snapshot_job.failures IS 'How often in a row it has failed of the same cause: a registry of Martlet''s that was away uses up none of the tries that a user''s has.';
COMMENT ON COLUMN snapshot_job.failing IS 'That cause, in the runner''s words; NULL where all are counted together.';
COMMENT ON COLUMN snapshot_job.not_before IS 'After a failure that may pass it waits until then.';
COMMENT ON COLUMN snapshot_job.idle_since IS 'Before its first claim: since when no runner of its regions has been seen at any job.';
COMMENT ON COLUMN snapshot_job.deadline_at IS 'Then it fails, whoever is at it: 60 minutes after the first claim, and before that after 6 hours of waiting for one.';
CREATE INDEX snapshot_job_by_age ON snapshot_job (created_at);
-- Of all jobs together: one that is deleted and made again never gives a token twice.
CREATE SEQUENCE snapshot_job_epoch;

CREATE INDEX snapshot_by_image ON snapshot (image);

CREATE TABLE discarded_repository (
    repository text PRIMARY KEY CHECK (length(repository) BETWEEN 1 AND 255),
    discarded_at timestamptz NOT NULL DEFAULT now(),
    not_before timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE discarded_repository IS 'Repositories of the internal registry that hold what may not be needed any more. Written by triggers on snapshot, and by claim_discarded() and settle_discarded() for the runner that removes it there; gone when nothing is left to remove, and nobody can be pushing into it any more.';
COMMENT ON COLUMN discarded_repository.discarded_at IS 'A runner whose job was ended may push for as long as the job might have taken: the row outlives that.';

-- Registries ------------------------------------------------------------------------------------------------------

CREATE TABLE docker_registry (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid REFERENCES organization (id) ON DELETE CASCADE,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
    host text NOT NULL CHECK (length(host) BETWEEN 1 AND 261 AND host = lower(host) AND host !~ '[/@[:space:]]'),
    project text NOT NULL DEFAULT '' CHECK (length(project) <= 255),
    username text NOT NULL DEFAULT '' CHECK (length(username) <= 256),
    sealed_password bytea CHECK (octet_length(sealed_password) <= 8192),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT registry_name_is_unique UNIQUE NULLS NOT DISTINCT (organization_id, name)
);
COMMENT ON TABLE docker_registry IS 'Registries that images are pulled from with a login. Written by api (an organization''s own) and the operator (organization_id NULL: blesses a host at a private address for everybody); runners are handed one by registry_login(); deleted by its owner.';
COMMENT ON COLUMN docker_registry.host IS 'Host and port as image names begin with it; docker.io for Docker Hub.';
COMMENT ON COLUMN docker_registry.sealed_password IS 'AES-GCM under a key that api and runners have and the database has not, bound to this row and host. No role reads it.';
CREATE INDEX docker_registry_by_host ON docker_registry (host);

-- Triggers of the wish --------------------------------------------------------------------------------------------

-- Decides the state that a wish leads to at once; jobs decide the rest.
CREATE FUNCTION snapshot_wish() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    is_made_here boolean := num_nonnulls(NEW.image_name, NEW.build_info) > 0;
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF is_made_here AND NEW.image IS NULL THEN
            NEW.state := 'pending';
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.desired_state = 'inactive' AND OLD.desired_state = 'active' THEN
        NEW.state := 'inactive';
        NEW.error_reason := NULL;
    ELSIF NEW.desired_state = 'active' AND (OLD.desired_state = 'inactive' OR NEW.recover_count > OLD.recover_count
            AND OLD.state IN ('error', 'build_failed', 'inactive')) THEN
        NEW.state := CASE WHEN is_made_here THEN 'pending' ELSE 'active' END;
        NEW.error_reason := NULL;
        NEW.activated_at := now();
    END IF;
    NEW.updated_at := now();
    RETURN NEW;
END
$$;
CREATE TRIGGER a_snapshot_wish BEFORE INSERT OR UPDATE ON snapshot FOR EACH ROW EXECUTE FUNCTION snapshot_wish();

CREATE FUNCTION snapshot_within_ceiling() RETURNS trigger
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
    SELECT count(*) INTO used FROM snapshot WHERE organization_id = NEW.organization_id AND NOT general;
    IF used >= ceiling THEN
        RAISE EXCEPTION 'the organization''s ceiling of % snapshots is reached: it has %', ceiling, used
            USING ERRCODE = 'MRT01', CONSTRAINT = 'snapshot_limit',
                HINT = 'Delete snapshots, or raise organization.snapshot_limit (an operator can, in psql).';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER snapshot_within_ceiling BEFORE INSERT ON snapshot FOR EACH ROW WHEN (NOT NEW.general)
    EXECUTE FUNCTION snapshot_within_ceiling();

CREATE FUNCTION snapshot_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    prefix text := internal_registry() || '/';
    cause text := nullif(current_setting('martlet.cause', true), '');
    is_discarded boolean := TG_OP = 'DELETE' AND (OLD.image IS NULL OR starts_with(OLD.image, prefix))
        OR TG_OP = 'UPDATE' AND starts_with(OLD.image, prefix) AND NEW.image IS DISTINCT FROM OLD.image;
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM record_event('snapshot.created', NEW.id, NEW.organization_id, NULL, NEW.state, NULL);
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM record_event('snapshot.removed', OLD.id, OLD.organization_id, OLD.state, NULL, NULL);
    ELSIF NEW.state <> OLD.state THEN
        PERFORM record_event('snapshot.state.updated', NEW.id, NEW.organization_id, OLD.state, NEW.state,
            coalesce(NEW.error_reason, cause));
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.state = 'pending' AND (TG_OP = 'INSERT' OR OLD.state <> 'pending') THEN
        INSERT INTO snapshot_job (snapshot_id, kind)
            VALUES (NEW.id, CASE WHEN NEW.build_info IS NULL THEN 'pull' ELSE 'build' END) ON CONFLICT DO NOTHING;
        PERFORM pg_notify('snapshots', 'job');
    ELSIF TG_OP = 'UPDATE' AND NEW.state NOT IN ('pending', 'pulling', 'building', 'snapshotting') THEN
        DELETE FROM snapshot_job WHERE snapshot_id = NEW.id;
        -- It was not finished, since that deletes it before: what it has pushed, or will have, is nobody's.
        is_discarded := is_discarded OR FOUND;
    END IF;
    -- What is pushed but not recorded yet is in the same repository, so it goes too.
    IF is_discarded THEN
        INSERT INTO discarded_repository (repository) VALUES (CASE WHEN starts_with(OLD.image, prefix)
                THEN substr(split_part(OLD.image, '@', 1), length(prefix) + 1) ELSE 'snapshots/' || OLD.id END)
            ON CONFLICT (repository) DO UPDATE SET not_before = now(), discarded_at = now();
        PERFORM pg_notify('snapshots', 'discarded');
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.state = 'active' AND OLD.state <> 'active' THEN
        PERFORM pg_notify('snapshots', 'active');
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER snapshot_changed AFTER INSERT OR UPDATE OR DELETE ON snapshot FOR EACH ROW EXECUTE FUNCTION snapshot_changed();

-- At most once a minute, and never waiting: sandboxes made at once would queue for the row.
CREATE FUNCTION snapshot_used() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE snapshot SET last_used_at = now() WHERE id = (
        SELECT id FROM snapshot WHERE id = NEW.snapshot_id AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
        FOR NO KEY UPDATE SKIP LOCKED);
    RETURN NULL;
END
$$;
CREATE TRIGGER snapshot_used AFTER INSERT ON sandbox FOR EACH ROW WHEN (NEW.snapshot_id IS NOT NULL) EXECUTE FUNCTION snapshot_used();

-- Whether living sandboxes start from an image is asked before it is removed anywhere.
CREATE INDEX sandbox_by_image ON sandbox (image) WHERE destroyed_at IS NULL;

-- Jobs ------------------------------------------------------------------------------------------------------------
-- A snapshot is locked before its job, as its own triggers do; whoever claims waits for neither.

CREATE FUNCTION snapshot_claims_limit() RETURNS integer LANGUAGE sql IMMUTABLE AS $$ SELECT 5 $$;

-- Runner: begin, or take over, the job that has waited longest, of the organization that has fewest under way. No row when
-- there is none for me. A runner that has no access to the internal registry does not ask.
CREATE FUNCTION claim_snapshot_job(kinds text[], lease_seconds integer)
RETURNS TABLE (snapshot_id uuid, epoch bigint, kind text, organization_id uuid, image_name text, build_info jsonb,
    failures integer, failing text, seconds_left double precision)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
    me uuid := require_runner();
    found uuid;
BEGIN
    SELECT j.snapshot_id INTO found
        FROM snapshot_job j JOIN snapshot s ON s.id = j.snapshot_id CROSS JOIN runner_healthy h
        WHERE h.id = me AND j.kind = ANY (kinds)
            AND (cardinality(s.region_ids) = 0 OR h.region_id = ANY (s.region_ids))
            AND (s.architecture IS NULL OR s.architecture = h.architecture)
            AND j.not_before <= now() AND j.deadline_at > now() AND j.claims < snapshot_claims_limit()
            AND (j.lease_expires_at IS NULL OR j.lease_expires_at < now())
        ORDER BY (SELECT count(*) FROM snapshot_job o JOIN snapshot os ON os.id = o.snapshot_id
                WHERE os.organization_id = s.organization_id AND o.lease_expires_at > now()), j.created_at
        LIMIT 1 FOR NO KEY UPDATE OF s, j SKIP LOCKED;
    IF found IS NULL THEN
        RETURN;
    END IF;
    UPDATE snapshot_job j SET runner_id = me, epoch = nextval('snapshot_job_epoch'), claims = j.claims + 1, step = NULL, done_bytes = NULL,
            deadline_at = CASE WHEN j.epoch = 0 THEN now() + interval '60 minutes' ELSE j.deadline_at END,
            total_bytes = NULL, lease_expires_at = now() + make_interval(secs => lease_seconds)
        WHERE j.snapshot_id = found;
    UPDATE snapshot s SET state = CASE WHEN s.build_info IS NULL THEN 'pulling' ELSE 'building' END WHERE s.id = found;
    RETURN QUERY SELECT j.snapshot_id, j.epoch, j.kind, s.organization_id, s.image_name, s.build_info, j.failures, j.failing,
            extract(epoch FROM j.deadline_at - now())::double precision
        FROM snapshot_job j JOIN snapshot s ON s.id = j.snapshot_id WHERE j.snapshot_id = found;
END
$$;

-- Runner, at its start: it is at none of its jobs any more, so whoever is first may take them.
CREATE FUNCTION release_snapshot_jobs() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE snapshot_job SET lease_expires_at = now() - interval '1 s' WHERE runner_id = require_runner() AND lease_expires_at > now()
$$;

-- Runner: still at it, and this far. False when it is mine no longer: then nothing of it may be kept.
CREATE FUNCTION hold_snapshot_job(job uuid, held_epoch bigint, lease_seconds integer, now_at text, done bigint, total bigint)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE snapshot_job SET lease_expires_at = now() + make_interval(secs => lease_seconds), step = now_at, done_bytes = done,
            total_bytes = total
        WHERE snapshot_id = job AND epoch = held_epoch AND runner_id = require_runner() AND deadline_at > now();
    RETURN FOUND;
END
$$;

-- Runner: it is in the internal registry under this name and digest. False when the job is mine no longer.
CREATE FUNCTION finish_snapshot_job(job uuid, held_epoch bigint, made_image text, made_architecture text,
    made_entrypoint text[], made_size bigint)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    -- A runner that was taken over must not give one tenant's image to another.
    IF NOT starts_with(made_image, internal_registry() || '/snapshots/' || job || '@') THEN
        RAISE EXCEPTION 'snapshot % is in the repository %/snapshots/%, not in %', job, internal_registry(), job, made_image
            USING ERRCODE = 'check_violation';
    END IF;
    PERFORM FROM snapshot WHERE id = job FOR NO KEY UPDATE;
    DELETE FROM snapshot_job WHERE snapshot_id = job AND epoch = held_epoch AND runner_id = require_runner();
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE snapshot SET state = 'active', error_reason = NULL, image = made_image, architecture = made_architecture,
            image_entrypoint = made_entrypoint, size_bytes = made_size, activated_at = now()
        WHERE id = job;
    -- A tag may have moved since: those whose image was lost start from what it is now.
    UPDATE sandbox x SET image = made_image FROM snapshot s
        WHERE s.id = job AND x.snapshot_id = job AND x.image = s.lost_image AND x.destroyed_at IS NULL;
    UPDATE snapshot SET lost_image = NULL WHERE id = job AND lost_image IS NOT NULL;
    RETURN true;
END
$$;

-- Runner: it failed. With a pause it is tried again, by whoever is first; without, the snapshot has failed. False when the
-- job is mine no longer. A failure that was found and told is no claim without an end.
CREATE FUNCTION fail_snapshot_job(job uuid, held_epoch bigint, cause text, reason text, pause_seconds integer)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM FROM snapshot WHERE id = job FOR NO KEY UPDATE;
    UPDATE snapshot_job SET runner_id = NULL, lease_expires_at = NULL, claims = 0, last_error = reason, failing = cause,
            failures = CASE WHEN failing IS NOT DISTINCT FROM cause THEN failures + 1 ELSE 1 END,
            not_before = now() + make_interval(secs => coalesce(pause_seconds, 0))
        WHERE snapshot_id = job AND epoch = held_epoch AND runner_id = require_runner();
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF pause_seconds IS NULL THEN
        PERFORM end_snapshot_job(job, reason);
    END IF;
    RETURN true;
END
$$;

CREATE FUNCTION end_snapshot_job(job uuid, reason text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE snapshot SET error_reason = reason, state = CASE WHEN build_info IS NULL THEN 'error' ELSE 'build_failed' END
    WHERE id = job AND state IN ('pending', 'pulling', 'building', 'snapshotting')
$$;

-- Runner: the login for an image of a job that is mine; no row where the organization has none for that registry. Of several
-- the one with the longest project that the repository lies in.
CREATE FUNCTION registry_login(job uuid, held_epoch bigint, registry_host text, repository text)
RETURNS TABLE (id uuid, host text, username text, sealed_password bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT r.id, r.host, r.username, r.sealed_password
    FROM snapshot_job j JOIN snapshot s ON s.id = j.snapshot_id JOIN docker_registry r ON r.organization_id = s.organization_id
    WHERE j.snapshot_id = job AND j.epoch = held_epoch AND j.runner_id = require_runner() AND r.host = registry_host
        AND r.sealed_password IS NOT NULL
        AND (r.project = '' OR repository = r.project OR starts_with(repository, r.project || '/'))
    ORDER BY length(r.project) DESC, r.created_at LIMIT 1
$$;

-- Runner: the internal registry does not have this image, which sandboxes need. Its snapshots are made anew.
CREATE FUNCTION snapshot_image_lost(lost text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    changed integer;
BEGIN
    PERFORM require_runner();
    PERFORM set_config('martlet.cause', 'its image is gone from the registry', true);
    UPDATE snapshot SET lost_image = lost WHERE image = lost AND lost_image IS DISTINCT FROM lost;
    UPDATE snapshot SET state = 'pending' WHERE image = lost AND state = 'active' AND num_nonnulls(image_name, build_info) > 0;
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END
$$;

-- The internal registry's garbage -----------------------------------------------------------------------------------

-- Of these images those that a snapshot or a living sandbox starts from, or that a job may be about to record.
CREATE FUNCTION images_in_use(images text[]) RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT asked.name FROM unnest(images) AS asked (name)
    WHERE EXISTS (SELECT FROM snapshot s WHERE s.image = asked.name)
        OR EXISTS (SELECT FROM sandbox x WHERE x.image = asked.name AND x.destroyed_at IS NULL)
        OR EXISTS (SELECT FROM snapshot_job j
            WHERE starts_with(asked.name, internal_registry() || '/snapshots/' || j.snapshot_id || '@'))
$$;

-- Runner: of these images those that its cache is for, with when a sandbox was last made from one: what an active snapshot
-- starts, and what a living sandbox that is placed here does.
CREATE FUNCTION cached_images_wanted(images text[]) RETURNS TABLE (image text, last_used_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT asked.name, max(greatest(s.last_used_at, s.activated_at, x.created_at))
    FROM unnest(images) AS asked (name)
        LEFT JOIN snapshot s ON s.image = asked.name AND s.state = 'active'
        LEFT JOIN (sandbox x JOIN sandbox_placement p ON p.sandbox_id = x.id AND p.runner_id = require_runner())
            ON x.image = asked.name AND x.destroyed_at IS NULL
    WHERE s.id IS NOT NULL OR x.id IS NOT NULL GROUP BY asked.name
$$;

-- Runner: a repository to look through, for a while mine alone; NULL when there is none. Not one that a job pushes into: what
-- it has pushed and not yet recorded looks like nobody's.
CREATE FUNCTION claim_discarded(lease_seconds integer) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE discarded_repository SET not_before = now() + make_interval(secs => lease_seconds)
    WHERE repository = (SELECT repository FROM discarded_repository WHERE not_before <= now() AND require_runner() IS NOT NULL
            AND NOT EXISTS (SELECT FROM snapshot_job j WHERE 'snapshots/' || j.snapshot_id = repository)
        ORDER BY not_before LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING repository
$$;

-- Runner: what could be removed of it is. It is looked at again later while something of it is used, and until whoever may be
-- pushing into it still has ended: a job takes 60 minutes at most.
CREATE FUNCTION settle_discarded(looked_through text, is_all_gone boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM require_runner();
    DELETE FROM discarded_repository
        WHERE repository = looked_through AND is_all_gone AND discarded_at < now() - interval '65 minutes';
    IF NOT FOUND THEN
        UPDATE discarded_repository SET not_before = now() + interval '15 minutes' WHERE repository = looked_through;
    END IF;
END
$$;

-- Pulls of runners ------------------------------------------------------------------------------------------------

CREATE TABLE runner_pull (
    runner_id uuid NOT NULL REFERENCES runner (id) ON DELETE CASCADE,
    image text NOT NULL,
    is_borrowed boolean NOT NULL DEFAULT false,
    done_bytes bigint NOT NULL DEFAULT 0,
    total_bytes bigint NOT NULL DEFAULT 0,
    began_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (runner_id, image)
);
COMMENT ON TABLE runner_pull IS 'What a runner is fetching, and how far it is. Written by that runner, which empties it when it starts; read by api and operator; gone when the image is there, or was given back.';
COMMENT ON COLUMN runner_pull.is_borrowed IS 'The runner has this name, or image of a build''s step, only to make a snapshot, and removes it from its engine afterwards.';
COMMENT ON COLUMN runner_pull.total_bytes IS 'Of the layers that are known so far.';
ALTER TABLE runner_pull ENABLE ROW LEVEL SECURITY;
CREATE POLICY runner_pull_of_its_own ON runner_pull TO martlet_runner
    USING (runner_id = current_runner()) WITH CHECK (runner_id = current_runner());
CREATE POLICY runner_pull_for_all_else ON runner_pull TO martlet_api, martlet_operator USING (true);

-- For operators, in psql ------------------------------------------------------------------------------------------

CREATE VIEW snapshots AS
    SELECT s.id, s.name, coalesce(o.name, '(all)') AS organization, s.state, s.desired_state AS wanted, s.error_reason,
        coalesce(s.image_name, s.image) AS image, r.name AS runner, j.step,
        CASE WHEN j.total_bytes > 0 THEN round(100.0 * j.done_bytes / j.total_bytes) END AS percent, j.failures, j.last_error,
        s.size_bytes, s.last_used_at, s.created_at
    FROM snapshot s LEFT JOIN organization o ON o.id = s.organization_id LEFT JOIN snapshot_job j ON j.snapshot_id = s.id
        LEFT JOIN runner r ON r.id = j.runner_id;
COMMENT ON VIEW snapshots IS 'Every snapshot, in words. Change one with: UPDATE snapshot SET desired_state = ''inactive'' WHERE name = ''…'';';

CREATE VIEW image_pulls AS
    SELECT r.name AS runner, p.image, p.done_bytes, p.total_bytes,
        CASE WHEN p.total_bytes > 0 THEN round(100.0 * p.done_bytes / p.total_bytes) END AS percent, now() - p.began_at AS for_how_long
    FROM runner_pull p JOIN runner r ON r.id = p.runner_id WHERE NOT p.is_borrowed;
COMMENT ON VIEW image_pulls IS 'What runners are fetching for sandboxes at this moment.';

-- Rights ----------------------------------------------------------------------------------------------------------

REVOKE UPDATE ON snapshot FROM martlet_api;
GRANT UPDATE (desired_state, recover_count, name, cpu, memory_gib, disk_gib, region_ids) ON snapshot TO martlet_api;
GRANT SELECT ON snapshot_job TO martlet_api, martlet_operator;
GRANT SELECT ON discarded_repository, snapshots, image_pulls TO martlet_operator;
-- To have it looked through sooner.
GRANT UPDATE (not_before) ON discarded_repository TO martlet_operator;
GRANT SELECT (id, organization_id, name, host, project, username, created_at, updated_at) ON docker_registry
    TO martlet_api, martlet_operator;
GRANT INSERT, UPDATE, DELETE ON docker_registry TO martlet_api;
GRANT INSERT (organization_id, name, host, project), UPDATE (name, host, project), DELETE ON docker_registry TO martlet_operator;
GRANT SELECT ON runner_pull TO martlet_api, martlet_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON runner_pull TO martlet_runner;
GRANT EXECUTE ON FUNCTION internal_registry(), snapshot_claims_limit() TO martlet_api, martlet_runner, martlet_operator;
GRANT EXECUTE ON FUNCTION claim_snapshot_job(text[], integer), release_snapshot_jobs(), hold_snapshot_job(uuid, bigint, integer, text, bigint, bigint),
    finish_snapshot_job(uuid, bigint, text, text, text[], bigint), fail_snapshot_job(uuid, bigint, text, text, integer),
    registry_login(uuid, bigint, text, text), snapshot_image_lost(text), images_in_use(text[]), cached_images_wanted(text[]),
    claim_discarded(integer), settle_discarded(text, boolean) TO martlet_runner;
