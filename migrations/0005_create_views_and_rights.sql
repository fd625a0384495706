-- How readers see it, and who may do what.

-- The public state, computed and never stored: 'unknown' and 'destroying' appear and heal with no writer at all.
CREATE FUNCTION public_state(asked sandbox, placed boolean, alive boolean, seen sandbox_status) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN asked.destroyed_at IS NOT NULL THEN 'destroyed'
        WHEN asked.desired_state = 'destroyed' THEN 'destroying'
        WHEN NOT placed THEN 'creating'
        WHEN NOT alive THEN 'unknown'
        WHEN seen.state = 'error' AND seen.observed_generation >= asked.generation THEN 'error'
        WHEN seen.state = 'error' THEN CASE asked.desired_state WHEN 'started' THEN 'starting' ELSE 'stopping' END
        WHEN seen.state = 'started' AND asked.desired_state = 'stopped' THEN 'stopping'
        WHEN seen.state = 'stopped' AND asked.desired_state = 'started' THEN 'starting'
        WHEN seen.state IN ('started', 'stopped') AND seen.observed_generation < asked.generation
            AND (seen.effective->>'requestedCpu', seen.effective->>'requestedMemoryGib', seen.effective->>'requestedDiskGib')
                IS DISTINCT FROM (asked.cpu::text, asked.memory_gib::text, asked.disk_gib::text) THEN 'resizing'
        ELSE seen.state
    END
$$;

CREATE VIEW sandbox_view AS
    SELECT s.id, s.organization_id, s.name, s.region_id, s.snapshot_id, s.snapshot_name, s.image, s.architecture, s.os_user,
        s.env, s.labels, s.public, s.cpu, s.memory_gib, s.disk_gib, s.gpu, s.gpu_types, s.network_block_all, s.network_allow_list,
        s.auto_stop_minutes, s.auto_archive_minutes, s.auto_delete_minutes, s.auto_destroy_at, s.queue_timeout_minutes,
        s.desired_state, s.generation, s.created_at, greatest(s.updated_at, t.updated_at) AS updated_at, s.destroyed_at,
        s.queue_timed_out_at, a.last_activity_at, p.runner_id, p.epoch, rs.gpu_type, t.observed_generation, t.daemon_version,
        t.effective, t.started_at, t.state_changed_at,
        public_state(s, p.sandbox_id IS NOT NULL, coalesce(l.expires_at > now(), false), t) AS state,
        CASE WHEN t.state = 'error' AND t.observed_generation >= s.generation THEN t.error_reason END AS error_reason,
        coalesce(t.state = 'error' AND t.observed_generation >= s.generation AND t.recoverable, false) AS recoverable
    FROM sandbox s
        LEFT JOIN sandbox_activity a ON a.sandbox_id = s.id
        LEFT JOIN sandbox_placement p ON p.sandbox_id = s.id
        LEFT JOIN sandbox_status t ON t.sandbox_id = s.id
        LEFT JOIN runner_lease l ON l.runner_id = p.runner_id
        LEFT JOIN runner_status rs ON rs.runner_id = p.runner_id;
COMMENT ON VIEW sandbox_view IS 'A sandbox as its owner sees it.';

-- What a runner needs to know of the sandboxes placed on it.
CREATE VIEW my_sandbox AS
    SELECT s.id, s.organization_id, s.name, s.image, s.os_user, s.entrypoint, s.allow_sudo, s.env, s.labels, s.cpu, s.memory_gib,
        s.disk_gib, s.gpu, s.gpu_types, s.network_block_all, s.network_allow_list, s.desired_state, s.force_stop, s.generation,
        s.toolbox_token, p.epoch, p.slot, p.gpu_devices, t.state, t.error_reason, t.recoverable, t.timed_out, t.observed_generation,
        t.container_id, t.effective, t.deadline_at, t.state_changed_at
    FROM sandbox s JOIN sandbox_placement p ON p.sandbox_id = s.id JOIN sandbox_status t ON t.sandbox_id = s.id
    WHERE p.runner_id = current_runner();
COMMENT ON VIEW my_sandbox IS 'The sandboxes placed on the runner that asks; empty for anybody else.';

-- What a proxy needs to reach a sandbox.
CREATE VIEW route AS
    SELECT s.id AS sandbox_id, s.organization_id, p.runner_id, p.epoch,
        public_state(s, true, coalesce(l.expires_at > now(), false), t) AS state,
        s.public, s.toolbox_token, s.signing_key, rs.ingress_address, rs.tls_fingerprint, rs.ingress_secret
    FROM sandbox s
        JOIN sandbox_placement p ON p.sandbox_id = s.id
        JOIN sandbox_status t ON t.sandbox_id = s.id
        JOIN runner_status rs ON rs.runner_id = p.runner_id
        LEFT JOIN runner_lease l ON l.runner_id = p.runner_id;
COMMENT ON VIEW route IS 'Where traffic for a sandbox goes, and the credentials of the way. For proxies only.';

-- For operators, in psql ------------------------------------------------------------------------------------------

CREATE VIEW sandboxes AS
    SELECT v.id, v.name, o.name AS organization, v.state, v.desired_state AS wanted, v.error_reason, r.name AS runner,
        v.cpu, v.memory_gib, v.disk_gib, v.snapshot_name AS snapshot, v.created_at, v.last_activity_at
    FROM sandbox_view v JOIN organization o ON o.id = v.organization_id LEFT JOIN runner r ON r.id = v.runner_id
    WHERE v.destroyed_at IS NULL;
COMMENT ON VIEW sandboxes IS 'Every sandbox, in words. Change one with: UPDATE sandbox SET desired_state = ''stopped'' WHERE name = ''…'';';

CREATE VIEW runners AS
    SELECT r.name, r.region_id AS region,
        CASE WHEN s.runner_id IS NULL THEN 'never registered'
             WHEN l.expires_at <= now() THEN 'unreachable since ' || to_char(l.expires_at, 'YYYY-MM-DD HH24:MI:SS')
             WHEN r.draining THEN 'draining'
             WHEN NOT r.schedulable THEN 'closed to new sandboxes'
             ELSE 'ready' END AS condition,
        d.sandboxes, d.cpu || ' of ' || s.cpu_capacity AS cpu_booked, d.memory_gib || ' of ' || s.memory_capacity_gib AS memory_gib_booked,
        d.disk_gib || ' of ' || s.disk_capacity_gib AS disk_gib_booked, d.gpu || ' of ' || s.gpu_capacity AS gpu_booked,
        s.architecture, s.version, l.renewed_at AS last_heartbeat, s.ingress_address, r.id
    FROM runner r LEFT JOIN runner_status s ON s.runner_id = r.id LEFT JOIN runner_lease l ON l.runner_id = r.id
        LEFT JOIN runner_load d ON d.runner_id = r.id;
COMMENT ON VIEW runners IS 'Every host: condition, and how much of it is booked.';

CREATE VIEW stuck_sandboxes AS
    SELECT v.id, v.name, v.state, v.desired_state AS wanted, now() - greatest(v.state_changed_at, s.desired_changed_at) AS for_how_long,
        CASE WHEN v.runner_id IS NULL THEN 'no runner of region ' || v.region_id || ' has room: see view runners'
             WHEN v.state = 'unknown' THEN 'its runner is unreachable: see view runners'
             WHEN v.state = 'error' THEN v.error_reason
             ELSE 'its runner has not got it from ' || t.state || ' to ' || v.desired_state || ' yet: see that runner''s log' END AS why,
        r.name AS runner
    FROM sandbox_view v JOIN sandbox s ON s.id = v.id LEFT JOIN sandbox_status t ON t.sandbox_id = v.id LEFT JOIN runner r ON r.id = v.runner_id
    WHERE v.destroyed_at IS NULL AND v.state <> v.desired_state
        AND coalesce(greatest(v.state_changed_at, s.desired_changed_at), s.created_at) < now() - interval '30 seconds';
COMMENT ON VIEW stuck_sandboxes IS 'What has not been as wanted for 30 s, and why.';

-- Rights -----------------------------------------------------------------------------------------------------------

ALTER TABLE sandbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE sandbox_placement ENABLE ROW LEVEL SECURITY;
ALTER TABLE sandbox_status ENABLE ROW LEVEL SECURITY;
CREATE POLICY sandbox_for_all_else ON sandbox TO martlet_api, martlet_operator USING (true) WITH CHECK (true);
CREATE POLICY placement_for_all_else ON sandbox_placement TO martlet_api, martlet_operator USING (true);
CREATE POLICY status_for_all_else ON sandbox_status TO martlet_api, martlet_operator USING (true);
CREATE POLICY placement_of_its_own ON sandbox_placement TO martlet_runner USING (runner_id = current_runner());
CREATE POLICY status_of_its_own ON sandbox_status TO martlet_runner
    USING (runner_id = current_runner()) WITH CHECK (runner_id = current_runner());

-- The views run with their owner's rights, so a runner or proxy has no right on the spec table itself.
GRANT SELECT ON my_sandbox, sandbox_status, sandbox_placement TO martlet_runner;
GRANT UPDATE (state, error_reason, recoverable, timed_out, observed_generation, container_id, daemon_version, effective, started_at,
    deadline_at) ON sandbox_status TO martlet_runner;
GRANT SELECT ON route TO martlet_proxy;
GRANT SELECT, INSERT, UPDATE ON sandbox TO martlet_api;
GRANT SELECT ON sandbox_placement, sandbox_status, sandbox_activity, sandbox_view, event TO martlet_api;
GRANT SELECT ON sandbox, sandbox_queue, sandbox_placement, sandbox_status, sandbox_activity, sandbox_view, event, sandboxes, runners,
    stuck_sandboxes TO martlet_operator;
GRANT UPDATE (desired_state, force_stop, labels, public, cpu, memory_gib, disk_gib, network_block_all, network_allow_list,
    auto_stop_minutes, auto_archive_minutes, auto_delete_minutes, auto_destroy_at, recover_count) ON sandbox TO martlet_operator;
GRANT SELECT ON runners TO martlet_api;

GRANT EXECUTE ON FUNCTION public_state(sandbox, boolean, boolean, sandbox_status), may_become(text, text)
    TO martlet_api, martlet_runner, martlet_proxy, martlet_operator;
GRANT EXECUTE ON FUNCTION claim_pending(integer), reclaim_orphans(integer), release(uuid, bigint), expire_timers() TO martlet_runner;
GRANT EXECUTE ON FUNCTION report_activity(uuid[]) TO martlet_api, martlet_proxy;
GRANT EXECUTE ON FUNCTION housekeep(), purge_events() TO martlet_api;
