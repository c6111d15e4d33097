/* What the customer in the subject (last.mara) has ordered last: from the cache, else from the database */
#include "../../sdk/atmo.h"

static void run(bytes input) {
    (void)input;
    bytes subject, customer, key = text("last order of ");
    split(get_field(META, text("url")), '.', &subject, &customer);
    append(&key, customer);
    answer rows = cache_get(key); /* failed: `key not found`, or the cache is out of reach */
    set_header(text("Found-In"), rows.failed ? text("database") : text("cache"));
    if (rows.failed) {
        add_variable(text("customer"), customer);
        rows = db_exec(SELECT, text("last-order"));
    }
    if (rows.failed)
        return_error(500, rows.value);
    else if (rows.value.size == 2) /* [] */
        return_error(404, text("this customer has ordered nothing"));
    else
        return_result(rows.value);
}
