// Writes a receipt down: a row for the order and one more for its customer. `transaction: true` makes it both or none
import { Field, Query, addVariable, dbExec, fail, getField, register } from "../../sdk/atmo"
export { allocate, deallocate, run_e } from "../../sdk/atmo"

register((receipt: ArrayBuffer): ArrayBuffer | null => {
  const customer = getField(Field.BODY, "customer")
  // Variables are taken in the order of the query's `?`; their names are for people.
  addVariable("id", getField(Field.BODY, "order"))
  addVariable("customer", customer)
  addVariable("receipt", String.UTF8.decode(receipt))
  const kept = dbExec(Query.INSERT, "keep-order")
  if (kept.failed) return fail(500, kept.text)
  if (kept.text.endsWith('"rowsAffected":0}')) return null // this order has come before
  addVariable("customer", customer)
  const counted = dbExec(Query.INSERT, "count-order")
  if (counted.failed) return fail(500, counted.text)
  return null
})
