/* All orders of the customer in the subject (history.mara), as the database's rows: [{"id":"A-17",…},…] */
#include "../../sdk/atmo.h"

static void run(bytes input) {
    (void)input;
    bytes subject, customer;
    split(get_field(META, text("url")), '.', &subject, &customer);
    add_variable(text("customer"), customer);
    const answer rows = db_exec(SELECT, text("orders-of"));
    if (rows.failed)
        return_error(500, rows.value);
    else
        return_result(rows.value);
}
