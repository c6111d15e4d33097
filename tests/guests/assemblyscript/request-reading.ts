// "header:NAME params:NAME state:NAME query:NAME body:NAME …" →
// {"method":"…","url":"…","id":"…","fields":{"header:NAME":"…",…}}
import { Field, getField, json, register } from "../../../examples/sdk/atmo"
export { allocate, deallocate, run_e } from "../../../examples/sdk/atmo"

function field(name: string): string {
  const colon = name.indexOf(":")
  const kind = name.substring(0, colon)
  const key = name.substring(colon + 1)
  if (kind == "body") return getField(Field.BODY, key)
  if (kind == "header") return getField(Field.HEADER, key)
  if (kind == "params") return getField(Field.PARAMS, key)
  if (kind == "state") return getField(Field.STATE, key)
  if (kind == "query") return getField(Field.QUERY, key)
  return ""
}

register((input: ArrayBuffer): ArrayBuffer | null => {
  const names = String.UTF8.decode(input).split(" ")
  const fields: string[] = []
  for (let i = 0; i < names.length; i++) {
    if (names[i].length) fields.push(json(names[i]) + ":" + json(field(names[i])))
  }
  return String.UTF8.encode(
    '{"method":' + json(getField(Field.META, "method")) +
    ',"url":' + json(getField(Field.META, "url")) +
    ',"id":' + json(getField(Field.META, "id")) +
    ',"fields":{' + fields.join(",") + "}}"
  )
})
