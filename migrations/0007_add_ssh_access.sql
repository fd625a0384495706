-- Who may enter a sandbox by SSH: whoever has its token, through a gateway.

DO $$
BEGIN
    CREATE ROLE martlet_ssh_gateway NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;  -- roles belong to the whole cluster: a second database finds it already there
END
$$;
GRANT USAGE ON SCHEMA public TO martlet_ssh_gateway;

CREATE TABLE ssh_access (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    sandbox_id uuid NOT NULL REFERENCES sandbox (id) ON DELETE CASCADE,
    organization_id uuid NOT NULL,
    hash bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    CONSTRAINT sandbox_has_one_ssh_access UNIQUE (sandbox_id)
);
COMMENT ON TABLE ssh_access IS 'The token that lets into a sandbox by SSH, as its SHA-256 only. Written by api; gateways ask admit_ssh(); revoking deletes the row, purge_ssh_access() what has expired.';
COMMENT ON COLUMN ssh_access.id IS 'Another one with each grant: a new token takes the place of the old one, which is good no longer.';
COMMENT ON COLUMN ssh_access.expires_at IS 'Sessions end then. UPDATE it to prolong or to end them.';
CREATE INDEX ssh_access_by_expiry ON ssh_access (expires_at);

-- Gateways close what a grant had opened, or look at it again, when they hear its id. Anybody may hear it: it opens nothing.
CREATE FUNCTION ssh_access_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' AND (TG_OP = 'DELETE' OR NEW.id <> OLD.id) THEN
        PERFORM record_event(CASE WHEN OLD.expires_at <= now() THEN 'sandbox.ssh-access.expired' ELSE 'sandbox.ssh-access.revoked' END,
            OLD.sandbox_id, OLD.organization_id, NULL, NULL, format('access %s, which was good until %s', OLD.id, OLD.expires_at));
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM record_event('sandbox.ssh-access.granted', NEW.sandbox_id, NEW.organization_id, NULL, NULL,
            format('access %s, good until %s', NEW.id, NEW.expires_at));
    END IF;
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('ssh_access', OLD.id::text);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER ssh_access_changed AFTER INSERT OR DELETE OR UPDATE OF id, hash, expires_at ON ssh_access
    FOR EACH ROW EXECUTE FUNCTION ssh_access_changed();

-- What a token opens, to whoever holds its hash, and the way there; a gateway may read nothing else. The way is NULL where no
-- runner holds the sandbox.
CREATE FUNCTION admit_ssh(token_hash bytea)
RETURNS TABLE (access_id uuid, sandbox_id uuid, organization_id uuid, milliseconds_left bigint, state text, runner_id uuid, epoch bigint,
    toolbox_token text, ingress_address text, tls_fingerprint text, ingress_secret bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT a.id, s.id, s.organization_id, ceil(extract(epoch FROM a.expires_at - now()) * 1000)::bigint,
        public_state(s, p.sandbox_id IS NOT NULL, coalesce(l.expires_at > now(), false), t), p.runner_id, p.epoch, s.toolbox_token,
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

-- Api: what has expired goes, a portion at a time.
CREATE FUNCTION purge_ssh_access() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    changed integer;
BEGIN
    PERFORM set_config('martlet.actor', 'timer', true);
    DELETE FROM ssh_access WHERE id IN
        (SELECT id FROM ssh_access WHERE expires_at <= now() ORDER BY expires_at LIMIT 1000 FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END
$$;

ALTER TABLE ssh_access ENABLE ROW LEVEL SECURITY;
CREATE POLICY ssh_access_for_all_else ON ssh_access TO martlet_api, martlet_operator USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON ssh_access TO martlet_api;
GRANT SELECT (id, sandbox_id, organization_id, created_at, updated_at, expires_at), UPDATE (expires_at), DELETE ON ssh_access
    TO martlet_operator;
GRANT EXECUTE ON FUNCTION admit_ssh(bytea), report_activity(uuid[]) TO martlet_ssh_gateway;
GRANT EXECUTE ON FUNCTION purge_ssh_access() TO martlet_api;
