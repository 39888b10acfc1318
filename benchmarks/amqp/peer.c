/*
 * Publishing and consuming with librabbitmq, as fast as it goes: `amqp_peer publish|consume COUNT`.
 *
 * The broker's URL is $BENCH_URL, the name of queue and exchange $BENCH_QUEUE. Prints "begin" when the clock starts and
 * then one line: seconds of wall time, seconds of CPU. Exits with 1, and says what failed, on anything unexpected.
 * What it sends is what benchmarks/amqp/message.py says; the two are kept equal by hand.
 */

#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/tcp_socket.h>
#else
#include <amqp.h>
#include <amqp_tcp_socket.h>
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CHANNEL = 1, WINDOW = 1000, REFILL = WINDOW / 2, PREFETCH = 1000, ACK_EVERY = 50, FRAME_MAX = 131072 };

static const char BODY[] =
    "{\"uuid\":\"6f0e7a64c1d94b7f8d3c5e21a9b04d12\",\"name\":\"benchmark\",\"args\":[{\"type\":\"int\",\"value\":12345}]}";

static void fail(const char *what) {
  fprintf(stderr, "amqp_peer: %s failed\n", what);
  exit(1);
}

static void check(int status, const char *what) {
  if (status != AMQP_STATUS_OK) {
    fprintf(stderr, "amqp_peer: %s: %s\n", what, amqp_error_string2(status));
    exit(1);
  }
}

static void check_reply(amqp_connection_state_t connection, const char *what) {
  if (amqp_get_rpc_reply(connection).reply_type != AMQP_RESPONSE_NORMAL) fail(what);
}

static double wall_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double cpu_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static amqp_connection_state_t connect_to(char *url) {
  struct amqp_connection_info info;
  amqp_default_connection_info(&info);
  check(amqp_parse_url(url, &info), "the URL");
  amqp_connection_state_t connection = amqp_new_connection();
  amqp_socket_t *socket = amqp_tcp_socket_new(connection);
  if (!socket) fail("making a socket");
  check(amqp_socket_open(socket, info.host, info.port), "connecting");
  amqp_rpc_reply_t reply =
      amqp_login(connection, info.vhost, 0, FRAME_MAX, 0, AMQP_SASL_METHOD_PLAIN, info.user, info.password);
  if (reply.reply_type != AMQP_RESPONSE_NORMAL) fail("the login");
  amqp_channel_open(connection, CHANNEL);
  check_reply(connection, "opening a channel");
  return connection;
}

/* Take one frame and say how many publishes it answers. No number below `oldest` is unanswered. */
static long confirms(amqp_connection_state_t connection, char *answered, uint64_t *oldest) {
  amqp_frame_t frame;
  check(amqp_simple_wait_frame(connection, &frame), "waiting for confirms");
  if (frame.frame_type != AMQP_FRAME_METHOD || frame.payload.method.id != AMQP_BASIC_ACK_METHOD)
    fail("a publish, returned or refused,");
  amqp_basic_ack_t *ack = frame.payload.method.decoded;
  long count = 0;
  if (!ack->multiple) {
    answered[ack->delivery_tag] = 1;
    count = 1;
  } else {
    for (uint64_t tag = *oldest; tag <= ack->delivery_tag; tag++) {
      count += !answered[tag];
      answered[tag] = 1;
    }
    *oldest = ack->delivery_tag + 1;
  }
  amqp_maybe_release_buffers(connection);
  return count;
}

static void publish(amqp_connection_state_t connection, amqp_bytes_t name, long count) {
  amqp_table_entry_t headers[3] = {
      {amqp_cstring_bytes("tenant"), {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = amqp_cstring_bytes("acme")}},
      {amqp_cstring_bytes("request"), {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = amqp_cstring_bytes("5f2b1c9e")}},
      {amqp_cstring_bytes("attempt"), {.kind = AMQP_FIELD_KIND_I32, .value.i32 = 1}},
  };
  amqp_basic_properties_t properties = {
      ._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG |
                AMQP_BASIC_HEADERS_FLAG,
      .content_type = amqp_cstring_bytes("application/json"),
      .delivery_mode = 2,
      .headers = {3, headers},
  };
  amqp_bytes_t body = {100, (void *)BODY};
  char *answered = calloc((size_t)count + 1, 1);
  char message_id[33];
  uint64_t oldest = 1;
  long unanswered = 0;
  if (!answered) fail("taking memory");
  for (long number = 0; number < count; number++) {
    snprintf(message_id, sizeof message_id, "%032lx", number);
    properties.message_id = amqp_cstring_bytes(message_id);
    check(amqp_basic_publish(connection, CHANNEL, name, name, 1, 0, &properties, body), "publishing");
    if (++unanswered == WINDOW)
      while (unanswered > REFILL) unanswered -= confirms(connection, answered, &oldest);
  }
  while (unanswered > 0) unanswered -= confirms(connection, answered, &oldest);
  free(answered);
}

static void consume(amqp_connection_state_t connection, amqp_bytes_t name, long count) {
  long attempts = 0;
  amqp_basic_consume(connection, CHANNEL, name, amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
  check_reply(connection, "consuming");
  for (long number = 1; number <= count; number++) {
    amqp_envelope_t envelope;
    amqp_maybe_release_buffers(connection);
    if (amqp_consume_message(connection, &envelope, NULL, 0).reply_type != AMQP_RESPONSE_NORMAL) fail("a delivery");
    amqp_basic_properties_t *properties = &envelope.message.properties;
    for (int each = 0; each < properties->headers.num_entries; each++)
      if (properties->headers.entries[each].value.kind == AMQP_FIELD_KIND_I32)
        attempts += properties->headers.entries[each].value.value.i32;
    if (properties->delivery_mode != 2 || properties->message_id.len != 32 || !properties->content_type.len)
      fail("comparing the properties");
    if (number % ACK_EVERY == 0 || number == count)
      check(amqp_basic_ack(connection, CHANNEL, envelope.delivery_tag, 1), "the ack");
    amqp_destroy_envelope(&envelope);
  }
  if (attempts != count) fail("comparing the headers");
}

int main(int argc, char **argv) {
  char *url = getenv("BENCH_URL"), *queue = getenv("BENCH_QUEUE");
  if (argc != 3 || !url || !queue) fail("reading the arguments");
  int publishing = !strcmp(argv[1], "publish");
  long count = atol(argv[2]);
  amqp_connection_state_t connection = connect_to(url);
  amqp_bytes_t name = amqp_cstring_bytes(queue);
  if (publishing) {
    amqp_confirm_select(connection, CHANNEL);
    check_reply(connection, "choosing confirms");
  } else {
    amqp_basic_qos(connection, CHANNEL, 0, PREFETCH, 0);
    check_reply(connection, "setting the prefetch");
  }
  printf("begin\n");
  fflush(stdout);
  double wall = wall_seconds(), cpu = cpu_seconds();
  (publishing ? publish : consume)(connection, name, count);
  wall = wall_seconds() - wall;
  cpu = cpu_seconds() - cpu;
  if (amqp_connection_close(connection, AMQP_REPLY_SUCCESS).reply_type != AMQP_RESPONSE_NORMAL) fail("closing");
  printf("%.6f %.6f\n", wall, cpu);
  return 0;
}
