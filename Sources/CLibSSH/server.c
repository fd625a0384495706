#include "CLibSSH.h"
#include "server.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <string.h>
#include <unistd.h>

void martlet_ssh_prepare(void) {
    OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT, NULL);
    ssh_set_log_level(SSH_LOG_NOLOG);
}

enum { KEY_BYTES = 32, KEY_FILE_LIMIT = martlet_ssh_key_file_limit };

// Bytes that are put together one after the other.
struct text {
    unsigned char bytes[KEY_FILE_LIMIT];
    size_t length;
};

static void put(struct text *text, const void *bytes, size_t length) {
    memcpy(text->bytes + text->length, bytes, length);
    text->length += length;
}

static void put_number(struct text *text, uint32_t number) {
    put(text, (unsigned char[]){number >> 24, number >> 16, number >> 8, number}, 4);
}

static void put_string(struct text *text, const void *bytes, size_t length) {
    put_number(text, (uint32_t)length);
    put(text, bytes, length);
}

static const char key_type[] = "ssh-ed25519";

// Writes the file of a private key as OpenSSH does (PROTOCOL.key): from other formats libssh leaves the public half out.
static void put_key_file(struct text *file, const unsigned char *seed, const unsigned char *public) {
    struct text half = {.length = 0}, whole = {.length = 0};
    put_string(&half, key_type, sizeof key_type - 1);
    put_string(&half, public, KEY_BYTES);
    put_number(&whole, 0); // twice the same number shows that it was deciphered
    put_number(&whole, 0);
    put(&whole, half.bytes, half.length);
    put_number(&whole, 2 * KEY_BYTES);
    put(&whole, seed, KEY_BYTES);
    put(&whole, public, KEY_BYTES);
    put_string(&whole, "", 0);
    for (unsigned char pad = 1; whole.length % 8 != 0; pad++) put(&whole, &pad, 1);

    static const char magic[] = "openssh-key-v1", none[] = "none";
    struct text blob = {.length = 0};
    put(&blob, magic, sizeof magic);
    put_string(&blob, none, sizeof none - 1);
    put_string(&blob, none, sizeof none - 1);
    put_string(&blob, "", 0);
    put_number(&blob, 1);
    put_string(&blob, half.bytes, half.length);
    put_string(&blob, whole.bytes, whole.length);

    static const char begin[] = "-----BEGIN OPENSSH PRIVATE KEY-----\n", end[] = "\n-----END OPENSSH PRIVATE KEY-----\n";
    put(file, begin, sizeof begin - 1);
    file->length += (size_t)EVP_EncodeBlock(file->bytes + file->length, blob.bytes, (int)blob.length);
    put(file, end, sizeof end);
    OPENSSL_cleanse(&whole, sizeof whole);
    OPENSSL_cleanse(&blob, sizeof blob);
}

static int public_half(const unsigned char *seed, unsigned char *public) {
    size_t length = KEY_BYTES;
    EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, KEY_BYTES);
    int done = key != NULL && EVP_PKEY_get_raw_public_key(key, public, &length) == 1 && length == KEY_BYTES;
    EVP_PKEY_free(key);
    return done;
}

ssh_key martlet_ssh_host_key(const char *secret, size_t length) {
    static const char label[] = "martlet ssh host key";
    unsigned char seed[EVP_MAX_MD_SIZE], public[KEY_BYTES];
    struct text file = {.length = 0};
    ssh_key key = NULL;
    const unsigned char *input = (const unsigned char *)label;
    if (HMAC(EVP_sha256(), secret, (int)length, input, sizeof label - 1, seed, NULL) != NULL && public_half(seed, public)) {
        put_key_file(&file, seed, public);
        if (ssh_pki_import_privkey_base64((char *)file.bytes, NULL, NULL, NULL, &key) != SSH_OK) key = NULL;
    }
    OPENSSL_cleanse(seed, sizeof seed);
    OPENSSL_cleanse(&file, sizeof file);
    return key;
}

int martlet_ssh_new_key_file(char *text, size_t size) {
    unsigned char seed[KEY_BYTES], public[KEY_BYTES];
    struct text file = {.length = 0};
    int made = RAND_bytes(seed, sizeof seed) == 1 && public_half(seed, public);
    if (made) put_key_file(&file, seed, public);
    made = made && file.length <= size;
    if (made) memcpy(text, file.bytes, file.length);
    OPENSSL_cleanse(seed, sizeof seed);
    OPENSSL_cleanse(&file, sizeof file);
    return made ? 0 : -1;
}

// Functions of libssh that its headers do not show.
void ssh_packet_set_callbacks(ssh_session session, ssh_packet_callbacks callbacks);
int ssh_packet_channel_open(ssh_session session, uint8_t type, ssh_buffer packet, void *user);

enum { CHANNEL_OPEN = 90, OPEN_FIXED_BYTES = 12 };

static uint32_t number_at(const unsigned char *bytes) {
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

// The length of the string at `at`, or -1 if it does not fit.
static int64_t string_at(const unsigned char *bytes, size_t length, size_t at) {
    if (at > length || length - at < 4) return -1;
    uint32_t size = number_at(bytes + at);
    return size <= length - at - 4 ? (int64_t)size : -1;
}

static int add_string(ssh_buffer buffer, const void *bytes, uint32_t length) {
    unsigned char size[] = {length >> 24, length >> 16, length >> 8, length};
    return ssh_buffer_add_data(buffer, size, sizeof size) | ssh_buffer_add_data(buffer, bytes, length);
}

// Packets come here before libssh's own function sees them, since this one was registered first.
static int open_channel(ssh_session session, uint8_t type, ssh_buffer packet, void *user) {
    static const char kind[] = "direct-streamlocal@openssh.com", plain[] = "direct-tcpip";
    const unsigned char *bytes = ssh_buffer_get(packet);
    size_t length = ssh_buffer_get_len(packet), fixed = 4 + sizeof kind - 1, path = fixed + OPEN_FIXED_BYTES;
    if (string_at(bytes, length, 0) != sizeof kind - 1 || memcmp(bytes + 4, kind, sizeof kind - 1) != 0) {
        return SSH_PACKET_NOT_USED;
    }
    int64_t size = string_at(bytes, length, path);
    ssh_buffer changed = ssh_buffer_new();
    if (changed == NULL || size < 0) {
        ssh_buffer_free(changed);
        return SSH_PACKET_NOT_USED;
    }
    static const unsigned char no_port[4] = {0};
    int failed = add_string(changed, plain, sizeof plain - 1) | ssh_buffer_add_data(changed, bytes + fixed, OPEN_FIXED_BYTES) |
                 add_string(changed, bytes + path + 4, (uint32_t)size) | ssh_buffer_add_data(changed, no_port, 4) |
                 add_string(changed, "", 0) | ssh_buffer_add_data(changed, no_port, 4);
    int result = failed ? SSH_PACKET_NOT_USED : ssh_packet_channel_open(session, type, changed, user);
    ssh_buffer_free(changed);
    return result;
}

static ssh_packet_callback open_functions[] = {open_channel};
static struct ssh_packet_callbacks_struct open_callbacks = {
    .start = CHANNEL_OPEN,
    .n_callbacks = 1,
    .callbacks = open_functions,
};

// The bind takes the key over, so it gets a copy.
static int configure(ssh_bind bind, ssh_key host_key) {
    static const char accepted[] = "ssh-ed25519,sk-ssh-ed25519@openssh.com,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,"
                                   "ecdsa-sha2-nistp521,sk-ecdsa-sha2-nistp256@openssh.com,rsa-sha2-512,rsa-sha2-256";
    int no = 0;
    ssh_key copy = ssh_key_dup(host_key);
    if (copy == NULL) return SSH_ERROR;
    if (ssh_bind_options_set(bind, SSH_BIND_OPTIONS_IMPORT_KEY, copy) != SSH_OK) {
        ssh_key_free(copy);
        return SSH_ERROR;
    }
    if (ssh_bind_options_set(bind, SSH_BIND_OPTIONS_PROCESS_CONFIG, &no) != SSH_OK) return SSH_ERROR;
    return ssh_bind_options_set(bind, SSH_BIND_OPTIONS_PUBKEY_ACCEPTED_KEY_TYPES, accepted);
}

ssh_session martlet_ssh_new_server(int connection, ssh_key host_key, ssh_packet_callbacks first) {
    ssh_bind bind = ssh_bind_new();
    ssh_session session = ssh_new();
    int accepted = bind != NULL && session != NULL && configure(bind, host_key) == SSH_OK;
    if (accepted) {
        ssh_packet_set_callbacks(session, first);
        ssh_set_auth_methods(session, SSH_AUTH_METHOD_PUBLICKEY);
        ssh_set_blocking(session, 0);
        accepted = ssh_bind_accept_fd(bind, session, connection) == SSH_OK;
    }
    if (bind != NULL) ssh_bind_free(bind);
    if (accepted) return session;
    // Whoever has the socket closes it, once.
    if (session == NULL || ssh_get_fd(session) != connection) close(connection);
    if (session != NULL) ssh_free(session);
    return NULL;
}

ssh_session martlet_ssh_accept(int connection, ssh_key host_key) {
    return martlet_ssh_new_server(connection, host_key, &open_callbacks);
}

#pragma clang diagnostic ignored "-Wdeprecated-declarations"

ssh_key martlet_ssh_offered_key(ssh_message message) {
    return ssh_message_auth_pubkey(message);
}

int martlet_ssh_signature_state(ssh_message message) {
    return ssh_message_auth_publickey_state(message);
}

void martlet_ssh_terminal(ssh_message message, const char **name, int *columns, int *rows) {
    *name = ssh_message_channel_request_pty_term(message);
    *columns = ssh_message_channel_request_pty_width(message);
    *rows = ssh_message_channel_request_pty_height(message);
}
