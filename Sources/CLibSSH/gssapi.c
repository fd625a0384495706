// Debian's libssh.a was compiled with GSSAPI (Kerberos) and so wants these symbols, but there is no static library that has
// them: MIT's loads its mechanisms with dlopen, which a static program must not do. Martlet's SSH accepts public keys only,
// so none of this is ever of use. Each function says that there is no mechanism, which libssh takes as "GSSAPI cannot be
// used", and leaves nothing behind to release.

#include <stddef.h>
#include <stdint.h>

typedef uint32_t OM_uint32;

enum { UNAVAILABLE = 16 << 16 }; // GSS_S_UNAVAILABLE, RFC 2744 section 3.9.1

void *GSS_C_NT_HOSTBASED_SERVICE = NULL;
void *GSS_C_NT_USER_NAME = NULL;

// All functions return the major status and take the place for the minor one first; what else they take is not looked at.
#define UNAVAILABLE_FUNCTION(name)      \
    OM_uint32 name(OM_uint32 *minor) {  \
        if (minor != NULL) *minor = 0;  \
        return UNAVAILABLE;             \
    }

UNAVAILABLE_FUNCTION(gss_accept_sec_context)
UNAVAILABLE_FUNCTION(gss_acquire_cred)
UNAVAILABLE_FUNCTION(gss_add_oid_set_member)
UNAVAILABLE_FUNCTION(gss_create_empty_oid_set)
UNAVAILABLE_FUNCTION(gss_display_name)
UNAVAILABLE_FUNCTION(gss_display_status)
UNAVAILABLE_FUNCTION(gss_get_mic)
UNAVAILABLE_FUNCTION(gss_import_name)
UNAVAILABLE_FUNCTION(gss_indicate_mechs)
UNAVAILABLE_FUNCTION(gss_init_sec_context)
UNAVAILABLE_FUNCTION(gss_inquire_cred)
UNAVAILABLE_FUNCTION(gss_inquire_cred_by_mech)
UNAVAILABLE_FUNCTION(gss_release_buffer)
UNAVAILABLE_FUNCTION(gss_release_cred)
UNAVAILABLE_FUNCTION(gss_release_name)
UNAVAILABLE_FUNCTION(gss_release_oid_set)
UNAVAILABLE_FUNCTION(gss_test_oid_set_member)
UNAVAILABLE_FUNCTION(gss_verify_mic)
