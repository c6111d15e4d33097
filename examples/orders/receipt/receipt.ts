// Puts together what the steps before found out: one receipt for each order, with a header that says how it went
import { Field, getField, json, register, setHeader } from "../../sdk/atmo"
export { allocate, deallocate, run_e } from "../../sdk/atmo"

register((_body: ArrayBuffer): ArrayBuffer | null => {
  // Under these names the Directive's `with` gives us the results of `price` and `stock`.
  const cost = getField(Field.STATE, "cost")
  const shelf = getField(Field.STATE, "shelf")
  // `stock` may have failed: with `onErr: continue` its error stands here, as {"code":409,"message":"…"}.
  const status = shelf.startsWith('{"code":') ? "back-ordered" : "accepted"
  setHeader("Content-Type", "application/json")
  setHeader("Order-Status", status)
  const order = json(getField(Field.BODY, "id"))
  const customer = json(getField(Field.BODY, "customer"))
  return String.UTF8.encode(
    `{"order":${order},"customer":${customer},"status":"${status}","price":${cost},"stock":${shelf}}`
  )
})
