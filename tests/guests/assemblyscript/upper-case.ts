// input → the same with ASCII letters in upper case
import { register } from "../../../examples/sdk/atmo"
export { allocate, deallocate, run_e } from "../../../examples/sdk/atmo"

register((input: ArrayBuffer): ArrayBuffer | null => {
  const bytes = Uint8Array.wrap(input)
  for (let i = 0; i < bytes.length; i++) {
    if (bytes[i] >= 0x61 && bytes[i] <= 0x7a) bytes[i] -= 0x20
  }
  return input
})
