-- Who may ask: organizations, users, keys; and what an organization may start from: regions and snapshots.

CREATE TABLE region (
    id text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    name text NOT NULL,
    organization_id uuid,
    grace_seconds integer NOT NULL DEFAULT 60 CHECK (grace_seconds BETWEEN 1 AND 86400),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE region IS 'A place runners stand in. Written by bootstrap and the operator; read by api and place(); rows stay.';
COMMENT ON COLUMN region.grace_seconds IS 'How long a runner''s lease may be expired before others re-claim its sandboxes.';

CREATE TABLE organization (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
    personal boolean NOT NULL DEFAULT false,
    created_by text NOT NULL DEFAULT '',
    default_region_id text REFERENCES region (id),
    suspended boolean NOT NULL DEFAULT false,
    suspension_reason text,
    -- Ceilings. NULL is "no ceiling": a self-hoster meets no limit he did not set.
    sandbox_limit integer CHECK (sandbox_limit >= 0),
    cpu_limit integer CHECK (cpu_limit >= 0),
    memory_limit_gib integer CHECK (memory_limit_gib >= 0),
    disk_limit_gib integer CHECK (disk_limit_gib >= 0),
    cpu_limit_per_sandbox integer NOT NULL DEFAULT 64 CHECK (cpu_limit_per_sandbox > 0),
    memory_limit_gib_per_sandbox integer NOT NULL DEFAULT 256 CHECK (memory_limit_gib_per_sandbox > 0),
    disk_limit_gib_per_sandbox integer NOT NULL DEFAULT 1024 CHECK (disk_limit_gib_per_sandbox > 0),
    block_network_by_default boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE organization IS 'The tenant. Written by bootstrap, api and the operator; read by api and proxy; rows stay.';
ALTER TABLE region ADD FOREIGN KEY (organization_id) REFERENCES organization (id);

CREATE TABLE app_user (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email text NOT NULL UNIQUE CHECK (length(email) BETWEEN 1 AND 320),
    name text NOT NULL DEFAULT '',
    role text NOT NULL DEFAULT 'user' CHECK (role IN ('admin', 'user')),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE app_user IS 'A person. Written by bootstrap and the operator; read by api; rows stay.';

CREATE TABLE organization_member (
    organization_id uuid NOT NULL REFERENCES organization (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES app_user (id) ON DELETE CASCADE,
    role text NOT NULL DEFAULT 'member' CHECK (role IN ('owner', 'member')),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (organization_id, user_id)
);
COMMENT ON TABLE organization_member IS 'Membership. Written by bootstrap and the operator; read by api; dies with either side.';

CREATE TABLE api_key (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid NOT NULL REFERENCES organization (id) ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES app_user (id) ON DELETE CASCADE,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 128),
    hash bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    prefix text NOT NULL,
    suffix text NOT NULL,
    permissions text[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    last_used_at timestamptz,
    CONSTRAINT api_key_name_is_unique UNIQUE (organization_id, user_id, name)
);
COMMENT ON TABLE api_key IS 'A credential, as its SHA-256 only. Written by api and bootstrap; proxies ask authorize_api_key(); revoking deletes the row.';

CREATE TABLE snapshot (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    organization_id uuid REFERENCES organization (id) ON DELETE CASCADE,
    general boolean NOT NULL DEFAULT false,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 256),
    image text NOT NULL CHECK (length(image) BETWEEN 1 AND 512),
    state text NOT NULL DEFAULT 'active' CHECK (state IN
        ('building', 'pending', 'pulling', 'snapshotting', 'active', 'inactive', 'error', 'build_failed', 'removing')),
    error_reason text,
    cpu integer NOT NULL DEFAULT 1 CHECK (cpu > 0),
    memory_gib integer NOT NULL DEFAULT 1 CHECK (memory_gib > 0),
    disk_gib integer NOT NULL DEFAULT 3 CHECK (disk_gib > 0),
    gpu integer NOT NULL DEFAULT 0 CHECK (gpu >= 0),
    gpu_type text,
    os_user text,
    entrypoint text[],
    allow_sudo boolean NOT NULL DEFAULT false,
    architecture text CHECK (architecture IN ('x86_64', 'aarch64')),
    size_bytes bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    CONSTRAINT snapshot_is_general_or_owned CHECK (general OR organization_id IS NOT NULL)
);
COMMENT ON TABLE snapshot IS 'An image and defaults to start sandboxes from. Written by bootstrap, api and the operator; read by all; deleted by its owner.';
COMMENT ON COLUMN snapshot.os_user IS 'User that sandbox processes run as; NULL means the image''s own USER.';
COMMENT ON COLUMN snapshot.allow_sudo IS 'Leaves out no-new-privileges, so that sudo in the image works.';
CREATE UNIQUE INDEX snapshot_name_is_unique_in_organization ON snapshot (organization_id, name) WHERE NOT general;
CREATE UNIQUE INDEX general_snapshot_name_is_unique ON snapshot (name) WHERE general;

-- An API key by its hash, to whoever holds the hash; nobody but api may read the table.
CREATE FUNCTION authorize_api_key(key_hash bytea)
RETURNS TABLE (api_key_id uuid, organization_id uuid, user_id uuid, permissions text[], expires_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT k.id, k.organization_id, k.user_id, k.permissions, k.expires_at
    FROM api_key k JOIN organization o ON o.id = k.organization_id
    WHERE k.hash = key_hash AND (k.expires_at IS NULL OR k.expires_at > now()) AND NOT o.suspended
$$;

-- Says which key left by the first 16 digits of its hash: enough to find it in a cache, and useless to whoever else listens.
CREATE FUNCTION api_key_left() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('route', 'key:' || encode(substr(OLD.hash, 1, 8), 'hex'));
    RETURN NULL;
END
$$;
CREATE TRIGGER api_key_revoked AFTER DELETE ON api_key FOR EACH ROW EXECUTE FUNCTION api_key_left();
CREATE TRIGGER api_key_changed AFTER UPDATE OF hash, permissions, expires_at, organization_id ON api_key
    FOR EACH ROW EXECUTE FUNCTION api_key_left();

CREATE FUNCTION organization_suspended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('route', 'organization:' || NEW.id);
    RETURN NULL;
END
$$;
CREATE TRIGGER organization_suspension_changed AFTER UPDATE OF suspended ON organization
    FOR EACH ROW WHEN (OLD.suspended IS DISTINCT FROM NEW.suspended) EXECUTE FUNCTION organization_suspended();

GRANT SELECT ON region, organization, app_user, organization_member, snapshot TO martlet_api, martlet_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON api_key TO martlet_api;
GRANT INSERT, UPDATE, DELETE ON snapshot TO martlet_api, martlet_operator;
GRANT UPDATE ON organization TO martlet_api, martlet_operator;
GRANT INSERT, UPDATE ON region, organization, app_user, organization_member TO martlet_operator;
GRANT SELECT (id, organization_id, user_id, name, prefix, suffix, permissions, created_at, expires_at, last_used_at), DELETE
    ON api_key TO martlet_operator;
GRANT SELECT ON region, snapshot TO martlet_runner;
GRANT EXECUTE ON FUNCTION authorize_api_key(bytea) TO martlet_api, martlet_proxy;
