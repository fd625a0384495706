import HTTPTypes

/// Every operation of the published client that is not built yet. Each answers 501 by its name, after authentication, so
/// that whoever meets one knows it is not a wrong address.
enum UnsupportedRoutes {
    static let routes: [APIRoute] = list.split(separator: "\n").map { line in
        let parts = line.split(separator: " ")
        let operation = String(parts[2])
        let method = HTTPRequest.Method(String(parts[0]))!  // the list below holds methods only
        return APIRoute(method, String(parts[1]), operation, .key) { _ in
            throw APIError.unsupported("\(operation) is not supported by this version of Martlet")
        }
    }

    /// Method, path and name, as `daytona_api_client` 0.226.1 has them.
    private static let list = """
        GET /audit/scenarios get_audit_scenarios
        GET /audit/organizations/{organizationId} get_organization_audit_logs
        GET /jobs/{jobId} get_job
        GET /jobs list_jobs
        GET /jobs/poll poll_jobs
        POST /jobs/{jobId}/status update_job_status
        POST /organizations/invitations/{invitationId}/accept accept_organization_invitation
        POST /organizations/{organizationId}/invitations/{invitationId}/cancel cancel_organization_invitation
        POST /organizations create_organization
        POST /organizations/{organizationId}/identity-providers create_organization_identity_provider
        POST /organizations/{organizationId}/invitations create_organization_invitation
        POST /organizations/{organizationId}/roles create_organization_role
        POST /regions create_region
        POST /organizations/invitations/{invitationId}/decline decline_organization_invitation
        DELETE /organizations/{organizationId} delete_organization
        DELETE /organizations/{organizationId}/identity-providers/{id} delete_organization_identity_provider
        DELETE /organizations/{organizationId}/users/{userId} delete_organization_member
        DELETE /organizations/{organizationId}/otel-config delete_organization_otel_config
        DELETE /organizations/{organizationId}/roles/{roleId} delete_organization_role
        DELETE /regions/{id} delete_region
        POST /organizations/{organizationId}/identity-providers/workos-admin-portal-link generate_workos_admin_portal_link
        GET /organizations/{organizationId}/gpu-capacity get_gpu_capacity
        GET /organizations/{organizationId}/identity-providers/{id} get_organization_identity_provider
        GET /organizations/invitations/count get_organization_invitations_count_for_authenticated_user
        GET /organizations/{organizationId}/otel-config get_organization_otel_config
        GET /organizations/otel-config/by-sandbox-auth-token/{authToken} get_organization_otel_config_by_sandbox_auth_token
        GET /organizations/sandbox-identity/by-sandbox-auth-token/{authToken} get_sandbox_identity_by_sandbox_auth_token
        POST /organizations/{organizationId}/leave leave_organization
        GET /organizations/{organizationId}/available-sandbox-classes list_available_sandbox_classes
        GET /organizations/{organizationId}/identity-providers list_organization_identity_providers
        GET /organizations/{organizationId}/invitations list_organization_invitations
        GET /organizations/invitations list_organization_invitations_for_authenticated_user
        GET /organizations/{organizationId}/users list_organization_members
        GET /organizations/{organizationId}/roles list_organization_roles
        GET /organizations/{organizationId}/identity-providers/workos-sso-connections list_workos_sso_connections
        POST /regions/{id}/regenerate-proxy-api-key regenerate_proxy_api_key
        POST /regions/{id}/regenerate-snapshot-manager-credentials regenerate_snapshot_manager_credentials
        POST /regions/{id}/regenerate-ssh-gateway-api-key regenerate_ssh_gateway_api_key
        PATCH /organizations/{organizationId}/default-region set_organization_default_region
        POST /organizations/{organizationId}/identity-providers/test-connection test_organization_identity_provider_connection
        POST /organizations/{organizationId}/users/{userId}/access update_access_for_organization_member
        PUT /organizations/{organizationId}/experimental-config update_experimental_config
        PATCH /organizations/{organizationId}/default-queue-timeout update_organization_default_queue_timeout
        PATCH /organizations/{organizationId}/identity-providers/{id} update_organization_identity_provider
        PUT /organizations/{organizationId}/invitations/{invitationId} update_organization_invitation
        PUT /organizations/{organizationId}/otel-config update_organization_otel_config
        PUT /organizations/{organizationId}/roles/{roleId} update_organization_role
        PATCH /regions/{id} update_region
        GET /preview/{signedPreviewToken}/{port}/sandbox-id get_sandbox_id_from_signed_preview_url_token
        GET /preview/{sandboxId}/signing-key get_signing_key
        GET /preview/{sandboxId}/access has_sandbox_access
        GET /preview/{sandboxId}/preview-warning is_preview_warning_enabled
        GET /preview/{sandboxId}/public is_sandbox_public
        GET /preview/{sandboxId}/validate/{authToken} is_valid_auth_token
        POST /runners create_runner
        DELETE /runners/{id} delete_runner
        GET /runners/me get_info_for_authenticated_runner
        GET /runners/{id} get_runner_by_id
        GET /runners/by-sandbox/{sandboxId} get_runner_by_sandbox_id
        GET /runners/{id}/full get_runner_full_by_id
        GET /runners/by-snapshot-ref get_runners_by_snapshot_ref
        GET /runners/me/snapshots get_snapshot_refs_for_authenticated_runner
        GET /runners list_runners
        POST /runners/healthcheck runner_healthcheck
        PATCH /runners/{id}/draining update_runner_draining
        PATCH /runners/{id}/scheduling update_runner_scheduling
        POST /sandbox/{sandboxIdOrName}/ports/{port}/signed-preview-url/{token}/expire expire_signed_port_preview_url
        GET /sandbox/{sandboxId}/organization get_organization_by_sandbox_id
        GET /sandbox/{sandboxIdOrName}/ports/{port}/preview-url get_port_preview_url
        GET /sandbox/{sandboxId}/region-quota get_region_quota_by_sandbox_id
        GET /sandbox/{sandboxId}/telemetry/logs get_sandbox_logs
        GET /sandbox/{sandboxId}/telemetry/metrics get_sandbox_metrics
        GET /sandbox/{sandboxId}/telemetry/traces/{traceId} get_sandbox_trace_spans
        GET /sandbox/{sandboxId}/telemetry/traces get_sandbox_traces
        GET /sandbox/for-runner get_sandboxes_for_runner
        GET /sandbox/{sandboxIdOrName}/ports/{port}/signed-preview-url get_signed_port_preview_url
        GET /sandbox/{sandboxId}/secrets resolve_sandbox_secrets
        PUT /sandbox/{sandboxIdOrName}/secrets update_sandbox_secrets
        PUT /sandbox/{sandboxId}/state update_sandbox_state
        POST /secret create_secret
        DELETE /secret/{secretId} delete_secret
        GET /secret/{secretId} get_secret
        GET /secret list_secrets
        GET /secret/paginated list_secrets_paginated
        PATCH /secret/{secretId} update_secret
        POST /users/privacy-policies/accept accept_privacy_policies
        POST /users/me/pending-sso-links/{id}/confirm confirm_pending_sso_link
        DELETE /users/me/pending-sso-links/{id} dismiss_pending_sso_link
        GET /users/account-providers get_account_providers
        POST /users/linked-accounts link_account
        GET /users/me/pending-sso-links list_pending_sso_links
        POST /users/me/logins record_login
        POST /warm-pools create_warm_pool
        DELETE /warm-pools/{id} delete_warm_pool
        GET /warm-pools list_warm_pools
        PATCH /warm-pools/{id} update_warm_pool
        POST /webhooks/organizations/{organizationId}/app-portal-access webhook_controller_get_app_portal_access
        GET /webhooks/organizations/{organizationId}/initialization-status webhook_controller_get_initialization_status
        POST /webhooks/organizations/{organizationId}/initialize webhook_controller_initialize_webhooks
        POST /webhooks/organizations/{organizationId}/refresh-endpoints webhook_controller_refresh_endpoints
        """
}
