-- The four group roles of Martlet. A component logs in with a role of its own that is a member of one of these;
-- a runner's login role is named in its row of "runner", and row-level security lets it see only what is placed on it.
-- Roles belong to the whole Postgres cluster, so a second database (tests, staging) finds them already there.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['martlet_api', 'martlet_runner', 'martlet_proxy', 'martlet_operator'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END LOOP;
END
$$;

GRANT USAGE ON SCHEMA public TO martlet_api, martlet_runner, martlet_proxy, martlet_operator;
-- Functions here are called by name with definer's rights where a role may do a thing it may not do by hand;
-- none is for everybody.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
