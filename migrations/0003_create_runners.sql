-- The hosts. What an operator decides about a runner, what the runner says of itself, its lease, and its load are
-- four tables, because four parties write them.

CREATE TABLE runner (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$'),
    db_role name NOT NULL UNIQUE,
    region_id text NOT NULL REFERENCES region (id),
    schedulable boolean NOT NULL DEFAULT true,
    draining boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE runner IS 'A host that runs sandboxes, as the operator sees it. Written by operator and admin commands; read by all; deleted by the operator.';
COMMENT ON COLUMN runner.db_role IS 'The Postgres login of this runner: row-level security knows it by session_user.';

CREATE TABLE runner_status (
    runner_id uuid PRIMARY KEY REFERENCES runner (id) ON DELETE CASCADE,
    version text NOT NULL,
    protocol_version integer NOT NULL,
    architecture text NOT NULL CHECK (architecture IN ('x86_64', 'aarch64')),
    labels jsonb NOT NULL DEFAULT '{}',
    cpu_capacity integer NOT NULL CHECK (cpu_capacity >= 0),
    memory_capacity_gib integer NOT NULL CHECK (memory_capacity_gib >= 0),
    disk_capacity_gib integer NOT NULL CHECK (disk_capacity_gib >= 0),
    gpu_capacity integer NOT NULL DEFAULT 0 CHECK (gpu_capacity >= 0),
    gpu_type text,
    address_slots integer NOT NULL CHECK (address_slots BETWEEN 1 AND 65000),
    ingress_address text NOT NULL,
    tls_fingerprint text NOT NULL CHECK (tls_fingerprint ~ '^[0-9a-f]{64}$'),
    ingress_secret bytea NOT NULL CHECK (octet_length(ingress_secret) >= 32),
    engine jsonb NOT NULL DEFAULT '{}',
    registered_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE runner_status IS 'What a runner says of itself. Written by that runner at start (register_runner); read by place() and proxies; dies with the runner.';
COMMENT ON COLUMN runner_status.cpu_capacity IS 'Cores that may be promised, over-commitment already counted in; likewise memory and disk.';
COMMENT ON COLUMN runner_status.engine IS 'The engine''s own report: storage driver, cgroup version, what limits it can enforce.';

CREATE TABLE runner_lease (
    runner_id uuid PRIMARY KEY REFERENCES runner (id) ON DELETE CASCADE,
    expires_at timestamptz NOT NULL,
    renewed_at timestamptz NOT NULL DEFAULT now(),
    held_since timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
COMMENT ON TABLE runner_lease IS 'Heartbeat; no trigger, no notification. Written by renew_lease(); read by place(), reclaim_orphans(), expire_timers() and views; dies with the runner.';
COMMENT ON COLUMN runner_lease.held_since IS 'Since when it has not lapsed. What kept a runner from renewing (the database was away, the network was cut) may have kept others and proxies too, so for a while after it a runner takes nothing from others and finds nobody idle or late.';

CREATE TABLE runner_load (
    runner_id uuid PRIMARY KEY REFERENCES runner (id) ON DELETE CASCADE,
    sandboxes integer NOT NULL DEFAULT 0 CHECK (sandboxes >= 0),
    running integer NOT NULL DEFAULT 0 CHECK (running >= 0),
    cpu integer NOT NULL DEFAULT 0 CHECK (cpu >= 0),
    memory_gib integer NOT NULL DEFAULT 0 CHECK (memory_gib >= 0),
    disk_gib integer NOT NULL DEFAULT 0 CHECK (disk_gib >= 0),
    gpu integer NOT NULL DEFAULT 0 CHECK (gpu >= 0),
    last_slot integer NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
COMMENT ON TABLE runner_load IS 'Sums over sandbox_placement, kept by its trigger; its row is the lock under which a runner is booked. Read by place(); dies with the runner.';
COMMENT ON COLUMN runner_load.running IS 'How many of the sandboxes have compute booked.';

CREATE TABLE runner_image (
    runner_id uuid NOT NULL REFERENCES runner (id) ON DELETE CASCADE,
    image text NOT NULL,
    PRIMARY KEY (runner_id, image)
);
COMMENT ON TABLE runner_image IS 'Which images a runner holds. Written by that runner; read by place(); rows go when the image does.';

CREATE FUNCTION runner_created() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO runner_load (runner_id) VALUES (NEW.id);
    INSERT INTO runner_lease (runner_id, expires_at) VALUES (NEW.id, '-infinity');
    RETURN NULL;
END
$$;
CREATE TRIGGER runner_gets_load_and_lease AFTER INSERT ON runner FOR EACH ROW EXECUTE FUNCTION runner_created();

-- The runner this session logged in as; NULL for anybody else.
CREATE FUNCTION current_runner() RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT id FROM runner WHERE db_role = session_user
$$;

CREATE FUNCTION require_runner() RETURNS uuid
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    me uuid := current_runner();
BEGIN
    IF me IS NULL THEN
        RAISE EXCEPTION 'the login "%" is not a runner', session_user
            USING ERRCODE = 'insufficient_privilege', HINT = 'Create one with: martlet runner create --name NAME';
    END IF;
    RETURN me;
END
$$;

CREATE FUNCTION renew_lease(ttl_seconds integer) RETURNS timestamptz
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE runner_lease SET renewed_at = now(), expires_at = now() + make_interval(secs => ttl_seconds),
        held_since = CASE WHEN expires_at < now() THEN now() ELSE held_since END
    WHERE runner_id = require_runner() RETURNING expires_at
$$;

CREATE FUNCTION register_runner(
    version text, protocol_version integer, architecture text, labels jsonb, cpu_capacity integer, memory_capacity_gib integer,
    disk_capacity_gib integer, gpu_capacity integer, gpu_type text, address_slots integer, ingress_address text,
    tls_fingerprint text, ingress_secret bytea, engine jsonb
) RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    me uuid := require_runner();
BEGIN
    INSERT INTO runner_status VALUES (
        me, register_runner.version, register_runner.protocol_version, register_runner.architecture, register_runner.labels,
        register_runner.cpu_capacity, register_runner.memory_capacity_gib, register_runner.disk_capacity_gib,
        register_runner.gpu_capacity, register_runner.gpu_type, register_runner.address_slots, register_runner.ingress_address,
        register_runner.tls_fingerprint, register_runner.ingress_secret, register_runner.engine, now())
    ON CONFLICT (runner_id) DO UPDATE SET
        version = excluded.version, protocol_version = excluded.protocol_version, architecture = excluded.architecture,
        labels = excluded.labels, cpu_capacity = excluded.cpu_capacity, memory_capacity_gib = excluded.memory_capacity_gib,
        disk_capacity_gib = excluded.disk_capacity_gib, gpu_capacity = excluded.gpu_capacity, gpu_type = excluded.gpu_type,
        address_slots = excluded.address_slots, ingress_address = excluded.ingress_address,
        tls_fingerprint = excluded.tls_fingerprint, ingress_secret = excluded.ingress_secret, engine = excluded.engine,
        registered_at = now();
    PERFORM pg_notify('route', 'runner:' || me);
    RETURN me;
END
$$;

-- An admin's act: a runner row and its own login. The password is given, never made here, so that it is not logged.
CREATE FUNCTION create_runner(runner_name text, region text, login_password text) RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
    new_id uuid := gen_random_uuid();
    login name := 'martlet_runner_' || replace(new_id::text, '-', '');
BEGIN
    EXECUTE format('CREATE ROLE %I LOGIN PASSWORD %L IN ROLE martlet_runner', login, login_password);
    INSERT INTO runner (id, name, db_role, region_id) VALUES (new_id, runner_name, login, region);
    RETURN new_id;
END
$$;

ALTER TABLE runner ENABLE ROW LEVEL SECURITY;
ALTER TABLE runner_status ENABLE ROW LEVEL SECURITY;
ALTER TABLE runner_image ENABLE ROW LEVEL SECURITY;
ALTER TABLE runner_lease ENABLE ROW LEVEL SECURITY;
ALTER TABLE runner_load ENABLE ROW LEVEL SECURITY;
CREATE POLICY runner_sees_itself ON runner TO martlet_runner USING (id = current_runner());
CREATE POLICY runner_status_sees_itself ON runner_status TO martlet_runner USING (runner_id = current_runner());
CREATE POLICY runner_lease_sees_itself ON runner_lease TO martlet_runner USING (runner_id = current_runner());
CREATE POLICY runner_load_sees_itself ON runner_load TO martlet_runner USING (runner_id = current_runner());
CREATE POLICY runner_image_of_its_own ON runner_image TO martlet_runner
    USING (runner_id = current_runner()) WITH CHECK (runner_id = current_runner());
CREATE POLICY runner_for_all_else ON runner TO martlet_api, martlet_operator USING (true) WITH CHECK (true);
CREATE POLICY runner_status_for_all_else ON runner_status TO martlet_api, martlet_operator USING (true);
CREATE POLICY runner_lease_for_all_else ON runner_lease TO martlet_api, martlet_operator USING (true);
CREATE POLICY runner_load_for_all_else ON runner_load TO martlet_api, martlet_operator USING (true);
CREATE POLICY runner_image_for_all_else ON runner_image TO martlet_api, martlet_operator USING (true);

GRANT SELECT ON runner, runner_lease, runner_load, runner_status TO martlet_runner;
GRANT SELECT, INSERT, DELETE ON runner_image TO martlet_runner;
GRANT SELECT ON runner, runner_lease, runner_load, runner_image TO martlet_api, martlet_operator;
GRANT SELECT (runner_id, version, protocol_version, architecture, labels, cpu_capacity, memory_capacity_gib, disk_capacity_gib,
    gpu_capacity, gpu_type, address_slots, ingress_address, tls_fingerprint, engine, registered_at)
    ON runner_status TO martlet_api, martlet_operator;
GRANT UPDATE (name, region_id, schedulable, draining), DELETE ON runner TO martlet_operator;
GRANT EXECUTE ON FUNCTION current_runner() TO martlet_api, martlet_runner, martlet_proxy, martlet_operator;
GRANT EXECUTE ON FUNCTION require_runner(), renew_lease(integer), register_runner(
    text, integer, text, jsonb, integer, integer, integer, integer, text, integer, text, text, bytea, jsonb) TO martlet_runner;
