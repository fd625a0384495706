-- Terminals of a sandbox can be recorded: its daemon writes what they show into the sandbox's own disk (asciicast v2).

ALTER TABLE organization ADD COLUMN record_terminals boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN organization.record_terminals IS 'Whether terminals of sandboxes made from now on are recorded, where the creator does not say.';
ALTER TABLE sandbox ADD COLUMN record_terminals boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN sandbox.record_terminals IS 'Whether terminals opened from now on are recorded. Its runner tells the daemon; effective.recordsTerminals says that it did.';

-- Not a matter of the generation: a setting of the daemon's is no reason to try again what failed, and one that cannot be told
-- must not end what runs. The runner compares it with what it told.
CREATE FUNCTION terminal_recording_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    holder uuid := (SELECT runner_id FROM sandbox_placement WHERE sandbox_id = NEW.id);
BEGIN
    PERFORM record_event('sandbox.terminal-recording.updated', NEW.id, NEW.organization_id, NULL, NULL,
        format('terminals opened from now on are %s', CASE WHEN NEW.record_terminals THEN 'recorded' ELSE 'not recorded' END));
    IF holder IS NOT NULL THEN
        PERFORM pg_notify('runner_' || holder, 'sandbox:' || NEW.id);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER terminal_recording_changed AFTER UPDATE OF record_terminals ON sandbox
    FOR EACH ROW WHEN (NEW.record_terminals <> OLD.record_terminals) EXECUTE FUNCTION terminal_recording_changed();

-- Whoever changed it waits for this.
CREATE FUNCTION terminal_recording_told() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('status', NEW.sandbox_id::text);
    RETURN NULL;
END
$$;
CREATE TRIGGER terminal_recording_told AFTER UPDATE OF effective ON sandbox_status
    FOR EACH ROW WHEN (NEW.effective->'recordsTerminals' IS DISTINCT FROM OLD.effective->'recordsTerminals')
    EXECUTE FUNCTION terminal_recording_told();
COMMENT ON COLUMN sandbox_status.effective IS 'Limits in force, as the engine enforces them: {"cpu","memoryBytes","pids","diskBytes" or null with "diskNote"}; the reported run, what it "reached", and whether its daemon "recordsTerminals".';

CREATE FUNCTION default_recording_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM record_event('organization.terminal-recording.updated', NEW.id, NEW.id, NULL, NULL,
        format('terminals of new sandboxes are %s by default', CASE WHEN NEW.record_terminals THEN 'recorded' ELSE 'not recorded' END));
    RETURN NULL;
END
$$;
CREATE TRIGGER default_recording_changed AFTER UPDATE OF record_terminals ON organization
    FOR EACH ROW WHEN (NEW.record_terminals <> OLD.record_terminals) EXECUTE FUNCTION default_recording_changed();

-- As before, with one column more.
CREATE OR REPLACE VIEW sandbox_view AS
    SELECT s.id, s.organization_id, s.name, s.region_id, s.snapshot_id, s.snapshot_name, s.image, s.architecture, s.os_user,
        s.env, s.labels, s.public, s.cpu, s.memory_gib, s.disk_gib, s.gpu, s.gpu_types, s.network_block_all, s.network_allow_list,
        s.auto_stop_minutes, s.auto_archive_minutes, s.auto_delete_minutes, s.auto_destroy_at, s.queue_timeout_minutes,
        s.desired_state, s.generation, s.created_at, greatest(s.updated_at, t.updated_at) AS updated_at, s.destroyed_at,
        s.queue_timed_out_at, a.last_activity_at, p.runner_id, p.epoch, rs.gpu_type, t.observed_generation, t.daemon_version,
        t.effective, t.started_at, t.state_changed_at,
        public_state(s, p.sandbox_id IS NOT NULL, coalesce(l.expires_at > now(), false), t) AS state,
        CASE WHEN t.state = 'error' AND t.observed_generation >= s.generation THEN t.error_reason END AS error_reason,
        coalesce(t.state = 'error' AND t.observed_generation >= s.generation AND t.recoverable, false) AS recoverable,
        s.record_terminals
    FROM sandbox s
        LEFT JOIN sandbox_activity a ON a.sandbox_id = s.id
        LEFT JOIN sandbox_placement p ON p.sandbox_id = s.id
        LEFT JOIN sandbox_status t ON t.sandbox_id = s.id
        LEFT JOIN runner_lease l ON l.runner_id = p.runner_id
        LEFT JOIN runner_status rs ON rs.runner_id = p.runner_id;

CREATE OR REPLACE VIEW my_sandbox AS
    SELECT s.id, s.organization_id, s.name, s.image, s.os_user, s.entrypoint, s.allow_sudo, s.env, s.labels, s.cpu, s.memory_gib,
        s.disk_gib, s.gpu, s.gpu_types, s.network_block_all, s.network_allow_list, s.desired_state, s.force_stop, s.generation,
        s.toolbox_token, p.epoch, p.slot, p.gpu_devices, t.state, t.error_reason, t.recoverable, t.timed_out, t.observed_generation,
        t.container_id, t.effective, t.deadline_at, t.state_changed_at, s.record_terminals
    FROM sandbox s JOIN sandbox_placement p ON p.sandbox_id = s.id JOIN sandbox_status t ON t.sandbox_id = s.id
    WHERE p.runner_id = current_runner();

GRANT UPDATE (record_terminals) ON sandbox TO martlet_operator;
