/* Writes one log line for each receipt. It returns nothing, so nothing is published: a handler may just watch */
#include "../../sdk/atmo.h"

static void run(bytes input) {
    bytes line = text("receipt of ");
    append_number(&line, input.size);
    append(&line, text(" bytes, status "));
    append(&line, get_field(HEADER, text("order-status")));
    log_message(INFO, line);
}
