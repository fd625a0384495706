#include "CLibSSH.h"
#include "server.h"

#include <malloc.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

// Functions of libssh that its headers do not show.
typedef struct ssh_socket_struct *ssh_socket;
void ssh_packet_set_callbacks(ssh_session session, ssh_packet_callbacks callbacks);
int ssh_packet_send(ssh_session session);
void ssh_socket_set_write_wontblock(ssh_socket socket);
int ssh_socket_nonblocking_flush(ssh_socket socket);
ssh_message ssh_message_pop_head(ssh_session session);

// How a session begins, as all versions since 0.6 have it.
struct session_head {
    int error_code;
    char error_text[1024];
    void *callbacks;
    int log_verbosity;
    ssh_socket socket;
};

// A packet's length, padding and signature, and no less than they are.
enum { PACKET_BYTES = 64 };

enum { KEXINIT = 20, NEWKEYS = 21, GLOBAL_REQUEST = 80, LAST = 100, TYPES = LAST - KEXINIT + 1 };

struct martlet_ssh_leg {
    ssh_session session;
    ssh_event event;
    // Where the session keeps the packet that is being put together.
    ssh_buffer *output;
    // All that was read and written, all packets, and these when last nothing waited to be written.
    struct ssh_counter_struct bytes, packets, packets_at_rest;
    // Bytes of packets that were put aside since.
    size_t put_aside;
    int is_changing_keys;
    martlet_ssh_packet_handler handler;
    void *context;
    ssh_packet_callback functions[TYPES];
    struct ssh_packet_callbacks_struct callbacks;
};

// The two buffers of a session lie side by side, with the state of the incoming packet between them (since 0.5); `input` is
// known, for each packet is shown in it. NULL if this libssh has them elsewhere.
static ssh_buffer *output_beside(ssh_session session, ssh_buffer input) {
    ssh_buffer *places = (ssh_buffer *)(void *)session;
    size_t count = malloc_usable_size(session) / sizeof *places;
    for (size_t place = 0; place + 3 < count; place++) {
        if (places[place] == input) return &places[place + 3];
    }
    return NULL;
}

// Shown before libssh's own functions get it; the first packet of all is a KEXINIT.
static int show(ssh_session session, uint8_t type, ssh_buffer packet, void *user) {
    martlet_ssh_leg *leg = user;
    if (leg->output == NULL) leg->output = output_beside(session, packet);
    if (type == KEXINIT) leg->is_changing_keys = 1;
    if (type == NEWKEYS) leg->is_changing_keys = 0;
    if (type < GLOBAL_REQUEST) return SSH_PACKET_NOT_USED;
    leg->handler(type, ssh_buffer_get(packet), ssh_buffer_get_len(packet), leg->context);
    return SSH_PACKET_USED;
}

static martlet_ssh_leg *new_leg(martlet_ssh_packet_handler handler, void *context) {
    martlet_ssh_leg *leg = calloc(1, sizeof *leg);
    if (leg == NULL) return NULL;
    leg->event = ssh_event_new();
    leg->handler = handler;
    leg->context = context;
    for (int type = 0; type < TYPES; type++) leg->functions[type] = show;
    leg->callbacks.start = KEXINIT;
    leg->callbacks.n_callbacks = TYPES;
    leg->callbacks.callbacks = leg->functions;
    leg->callbacks.user = leg;
    return leg;
}

static martlet_ssh_leg *count(martlet_ssh_leg *leg) {
    ssh_set_counters(leg->session, &leg->bytes, &leg->packets);
    return leg;
}

void martlet_ssh_free_leg(martlet_ssh_leg *leg) {
    if (leg->session != NULL && leg->event != NULL) ssh_event_remove_session(leg->event, leg->session);
    if (leg->event != NULL) ssh_event_free(leg->event);
    if (leg->session != NULL) ssh_free(leg->session);
    free(leg);
}

martlet_ssh_leg *martlet_ssh_server_leg(int connection, ssh_key host_key, martlet_ssh_packet_handler handler, void *context) {
    martlet_ssh_leg *leg = new_leg(handler, context);
    if (leg == NULL) {
        close(connection);
        return NULL;
    }
    leg->session = martlet_ssh_new_server(connection, host_key, &leg->callbacks);
    if (leg->session != NULL && leg->event != NULL) return count(leg);
    martlet_ssh_free_leg(leg);
    return NULL;
}

// Whatever is not set would be looked for in files and in the user's account.
static int configure(ssh_session session, int connection) {
    int no = 0;
    return ssh_options_set(session, SSH_OPTIONS_PROCESS_CONFIG, &no) | ssh_options_set(session, SSH_OPTIONS_HOST, "sandbox") |
           ssh_options_set(session, SSH_OPTIONS_USER, "sandbox") | ssh_options_set(session, SSH_OPTIONS_SSH_DIR, "/nonexistent") |
           ssh_options_set(session, SSH_OPTIONS_KNOWNHOSTS, "/dev/null") |
           ssh_options_set(session, SSH_OPTIONS_GLOBAL_KNOWNHOSTS, "/dev/null") |
           ssh_options_set(session, SSH_OPTIONS_HOSTKEYS, "ssh-ed25519") |
           ssh_options_set(session, SSH_OPTIONS_FD, &connection);
}

martlet_ssh_leg *martlet_ssh_client_leg(int connection, martlet_ssh_packet_handler handler, void *context) {
    martlet_ssh_leg *leg = new_leg(handler, context);
    if (leg != NULL) leg->session = ssh_new();
    if (leg == NULL || leg->event == NULL || leg->session == NULL || configure(leg->session, connection) != SSH_OK) {
        close(connection);
        if (leg != NULL) martlet_ssh_free_leg(leg);
        return NULL;
    }
    ssh_packet_set_callbacks(leg->session, &leg->callbacks);
    ssh_set_blocking(leg->session, 0);
    return count(leg);
}

ssh_session martlet_ssh_leg_session(martlet_ssh_leg *leg) { return leg->session; }

int martlet_ssh_is_writing(martlet_ssh_leg *leg) { return (ssh_get_status(leg->session) & SSH_WRITE_PENDING) != 0; }

int martlet_ssh_send_packet(martlet_ssh_leg *leg, uint8_t type, const void *bytes, uint32_t length) {
    if (leg->output == NULL || *leg->output == NULL || ssh_buffer_get_len(*leg->output) != 0) return -1;
    if (ssh_buffer_add_data(*leg->output, &type, 1) < 0 || ssh_buffer_add_data(*leg->output, bytes, length) < 0) return -1;
    uint64_t before = leg->packets.out_packets;
    if (ssh_packet_send(leg->session) == SSH_ERROR) return -1;
    // One that was put aside waits for new keys, which libssh may have begun to ask for by itself.
    if (type >= GLOBAL_REQUEST && leg->packets.out_packets == before) {
        leg->is_changing_keys = 1;
        leg->put_aside += length + PACKET_BYTES;
    }
    return 0;
}

int martlet_ssh_read_some(martlet_ssh_leg *leg) {
    ssh_event_add_session(leg->event, leg->session);
    return ssh_event_dopoll(leg->event, 0);
}

int martlet_ssh_write_some(martlet_ssh_leg *leg) {
    ssh_socket socket = ((struct session_head *)(void *)leg->session)->socket;
    for (int turn = 0; turn < 2 && martlet_ssh_is_writing(leg); turn++) {
        struct pollfd state = {.fd = ssh_get_fd(leg->session), .events = POLLOUT};
        if (poll(&state, 1, 0) <= 0) break;
        if (!(state.revents & POLLOUT)) return -1;
        ssh_socket_set_write_wontblock(socket);
        if (ssh_socket_nonblocking_flush(socket) == SSH_ERROR) return -1;
    }
    return 0;
}

size_t martlet_ssh_unwritten(martlet_ssh_leg *leg) {
    if (!martlet_ssh_is_writing(leg) && !leg->is_changing_keys) {
        leg->put_aside = 0;
        leg->packets_at_rest = leg->packets;
    }
    uint64_t packets = leg->packets.out_packets - leg->packets_at_rest.out_packets;
    return leg->put_aside + (size_t)(leg->packets.out_bytes - leg->packets_at_rest.out_bytes + packets * PACKET_BYTES);
}

int martlet_ssh_is_changing_keys(martlet_ssh_leg *leg) { return leg->is_changing_keys; }

ssh_message martlet_ssh_next_message(ssh_session session) { return ssh_message_pop_head(session); }

uint64_t martlet_ssh_bytes_read(martlet_ssh_leg *leg) { return leg->bytes.in_bytes; }
