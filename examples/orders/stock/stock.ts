// Are there enough on the shelf? {"sku":"tea","count":3} → {"reserved":3,"left":37}; 409 when there are too few
import { Field, fail, getField, register } from "../../sdk/atmo"
export { allocate, deallocate, run_e } from "../../sdk/atmo"

const shelf = new Map<string, i32>()
shelf.set("tea", 40)
shelf.set("kettle", 2)
shelf.set("cup", 12)

register((_body: ArrayBuffer): ArrayBuffer | null => {
  const sku = getField(Field.BODY, "sku")
  const count = <i32>parseInt(getField(Field.BODY, "count"))
  const onHand = shelf.has(sku) ? shelf.get(sku) : 0
  if (count > onHand) return fail(409, `only ${onHand} of ${sku} left`)
  return String.UTF8.encode(`{"reserved":${count},"left":${onHand - count}}`)
})
