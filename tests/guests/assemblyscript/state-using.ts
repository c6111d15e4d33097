// "NAME" → the state's value of that name; "NAME=VALUE" → sets it for the steps that follow and answers VALUE
import { Field, getField, register, setField } from "../../../examples/sdk/atmo"
export { allocate, deallocate, run_e } from "../../../examples/sdk/atmo"

register((input: ArrayBuffer): ArrayBuffer | null => {
  const text = String.UTF8.decode(input)
  const equals = text.indexOf("=")
  if (equals < 0) return String.UTF8.encode(getField(Field.STATE, text))
  const value = text.substring(equals + 1)
  setField(Field.STATE, text.substring(0, equals), value)
  return String.UTF8.encode(value)
})
