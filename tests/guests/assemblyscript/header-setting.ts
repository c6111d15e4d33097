// Lines "Name: value" become headers of the outgoing message; answers how many there were
import { register, setHeader } from "../../../examples/sdk/atmo"
export { allocate, deallocate, run_e } from "../../../examples/sdk/atmo"

register((input: ArrayBuffer): ArrayBuffer | null => {
  const lines = String.UTF8.decode(input).split("\n")
  let count = 0
  for (let i = 0; i < lines.length; i++) {
    const colon = lines[i].indexOf(":")
    if (colon < 0) continue
    setHeader(lines[i].substring(0, colon).trim(), lines[i].substring(colon + 1).trim())
    count++
  }
  return String.UTF8.encode(count.toString())
})
