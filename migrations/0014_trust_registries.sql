-- How a registry proves who it is: by a certificate that the host trusts (as before), by an authority that its row names, or not at all.
-- It counts for what this row is used for, and for nobody else: the engine's own trust is the host's, and stays as it is.

ALTER TABLE docker_registry
    ADD certificate_authorities text CHECK (length(certificate_authorities) BETWEEN 1 AND 65536),
    ADD is_insecure boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT registry_is_trusted_in_one_way CHECK (NOT (is_insecure AND certificate_authorities IS NOT NULL));
COMMENT ON COLUMN docker_registry.certificate_authorities IS 'PEM: authorities that may have signed the registry''s certificate, besides those that the host trusts.';
COMMENT ON COLUMN docker_registry.is_insecure IS 'Any certificate is taken, and plain HTTP too.';
COMMENT ON COLUMN docker_registry.sealed_password IS 'AES-GCM under a key that api and runners have and the database has not, bound to this row, its host and its trust. No role reads it.';
COMMENT ON TABLE docker_registry IS 'Registries that images are pulled from with a login, or by a trust, of their own. Written by api (an organization''s own) and the operator (organization_id NULL: blesses a host at a private address for everybody, and may say how it is trusted); runners are handed one by registry_login(); deleted by its owner.';

-- Runner: login and trust for an image of a job that is mine; no row where there is neither for that registry. An organization's own
-- comes before the operator's, and of several the one with the longest project that the repository lies in. An own one that names no
-- trust has the authorities that the operator names for everybody.
DROP FUNCTION registry_login(uuid, bigint, text, text);
CREATE FUNCTION registry_login(job uuid, held_epoch bigint, registry_host text, repository text)
RETURNS TABLE (id uuid, host text, username text, sealed_password bytea, certificate_authorities text, is_insecure boolean,
    everybodys_authorities text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
    SELECT r.id, r.host, r.username, r.sealed_password, r.certificate_authorities, r.is_insecure,
        (SELECT e.certificate_authorities FROM docker_registry e WHERE e.organization_id IS NULL AND e.host = registry_host
            AND e.certificate_authorities IS NOT NULL ORDER BY e.created_at LIMIT 1)
    FROM snapshot_job j JOIN snapshot s ON s.id = j.snapshot_id
        JOIN docker_registry r ON r.organization_id = s.organization_id OR r.organization_id IS NULL
    WHERE j.snapshot_id = job AND j.epoch = held_epoch AND j.runner_id = require_runner() AND r.host = registry_host
        AND (r.sealed_password IS NOT NULL OR r.certificate_authorities IS NOT NULL OR r.is_insecure)
        AND (r.project = '' OR repository = r.project OR starts_with(repository, r.project || '/'))
    ORDER BY r.organization_id IS NULL, length(r.project) DESC, r.created_at LIMIT 1
$$;
GRANT EXECUTE ON FUNCTION registry_login(uuid, bigint, text, text) TO martlet_runner;

GRANT SELECT (certificate_authorities, is_insecure) ON docker_registry TO martlet_api, martlet_operator;
GRANT INSERT (certificate_authorities, is_insecure), UPDATE (certificate_authorities, is_insecure) ON docker_registry TO martlet_operator;
