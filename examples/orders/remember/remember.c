/* Keeps in the cache, for an hour, what the customer of this receipt has ordered last */
#include "../../sdk/atmo.h"

static void run(bytes receipt) {
    (void)receipt;
    const bytes customer = get_field(BODY, text("customer"));
    bytes key = text("last order of ");
    append(&key, customer);
    add_variable(text("customer"), customer);
    const answer rows = db_exec(SELECT, text("last-order"));
    if (rows.failed)
        return_error(500, rows.value);
    else if (!cache_set(key, rows.value, 3600))
        log_message(WARN, text("the cache took nothing")); /* no reason to fail: `last` asks the database then */
}
