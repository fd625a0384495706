-- What a sandbox ran into is known to its owner by the failed program's answer, and to the operator by an event.

-- Whenever the runner reports more than before of the same run. The counts are the kernel's and begin anew with each run.
CREATE FUNCTION limits_were_reached() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    before jsonb := CASE WHEN OLD.effective->>'run' = NEW.effective->>'run' THEN OLD.effective->'reached' END;
    reached jsonb := NEW.effective->'reached';
    owner uuid := (SELECT organization_id FROM sandbox WHERE id = NEW.sandbox_id);
    kills bigint := (reached->>'memoryKills')::bigint - coalesce((before->>'memoryKills')::bigint, 0);
    refused bigint := (reached->>'refusedForks')::bigint - coalesce((before->>'refusedForks')::bigint, 0);
BEGIN
    IF kills > 0 THEN
        PERFORM record_event('sandbox.limit.reached', NEW.sandbox_id, owner, NEW.state, NEW.state, format(
            'out of memory: the kernel killed %s of its processes; the limit is %s MiB of memory',
            kills, (NEW.effective->>'memoryBytes')::bigint >> 20));
    END IF;
    IF refused > 0 THEN
        PERFORM record_event('sandbox.limit.reached', NEW.sandbox_id, owner, NEW.state, NEW.state, format(
            'too many processes: %s processes or threads were refused; the limit is %s at a time', refused, NEW.effective->>'pids'));
    END IF;
    IF (reached->>'isDiskFull')::boolean AND NOT coalesce((before->>'isDiskFull')::boolean, false) THEN
        PERFORM record_event('sandbox.limit.reached', NEW.sandbox_id, owner, NEW.state, NEW.state, format(
            'disk full: its %s MiB are used up', (NEW.effective->>'diskBytes')::bigint >> 20));
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER limits_were_reached AFTER UPDATE OF effective ON sandbox_status
    FOR EACH ROW WHEN (NEW.effective->'reached' IS NOT NULL AND NEW.effective->'reached' IS DISTINCT FROM OLD.effective->'reached')
    EXECUTE FUNCTION limits_were_reached();
COMMENT ON COLUMN sandbox_status.effective IS 'Limits in force, as the engine enforces them: {"cpu","memoryBytes","pids","diskBytes" or null with "diskNote"}; the reported run and what it "reached".';

CREATE INDEX event_of_reached_limits ON event (at DESC) WHERE kind = 'sandbox.limit.reached';
CREATE VIEW reached_limits AS
    SELECT e.at, s.name, o.name AS organization, e.cause, e.subject_id AS id
    FROM event e JOIN sandbox s ON s.id = e.subject_id JOIN organization o ON o.id = s.organization_id
    WHERE e.kind = 'sandbox.limit.reached' ORDER BY e.at DESC;
COMMENT ON VIEW reached_limits IS 'Which sandboxes ran out of memory, processes or disk, newest first. At most one row a minute for each.';
GRANT SELECT ON reached_limits TO martlet_operator;

-- A disk whose quota its runner cannot change stays as it was made, rather than being promised. (Where the runner enforces
-- no quota at all, the sandbox says so, before and after.)
CREATE FUNCTION disk_can_be_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    engine jsonb := (SELECT r.engine FROM sandbox_placement p JOIN runner_status r ON r.runner_id = p.runner_id
        WHERE p.sandbox_id = NEW.id);
BEGIN
    IF (engine->>'enforcesDiskQuota')::boolean AND NOT coalesce((engine->>'changesDiskQuota')::boolean, false) THEN
        RAISE EXCEPTION 'disk is % GiB and stays so: storage driver % of the sandbox''s runner cannot change the quota of a disk',
            OLD.disk_gib, engine->>'storageDriver'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'disk_is_fixed', HINT = 'Create a new sandbox with the disk you need.';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER b_disk_can_be_changed BEFORE UPDATE OF disk_gib ON sandbox
    FOR EACH ROW WHEN (NEW.disk_gib <> OLD.disk_gib) EXECUTE FUNCTION disk_can_be_changed();
