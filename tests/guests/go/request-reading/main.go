// Command request-reading is a Runnable: "header:NAME params:NAME state:NAME query:NAME body:NAME …" →
// {"method":"…","url":"…","id":"…","fields":{"header:NAME":"…",…}}.
package main

import (
	"encoding/json"
	"strings"

	"guests/atmo"
)

var kinds = map[string]int32{
	"body": atmo.Body, "header": atmo.Header, "params": atmo.Params, "state": atmo.State, "query": atmo.Query,
}

type answer struct {
	Method string            `json:"method"`
	URL    string            `json:"url"`
	ID     string            `json:"id"`
	Fields map[string]string `json:"fields"`
}

func init() {
	atmo.Run = func(input []byte) ([]byte, *atmo.Error) {
		fields := map[string]string{}
		for _, name := range strings.Fields(string(input)) {
			kind, key, _ := strings.Cut(name, ":")
			if number, known := kinds[kind]; known {
				fields[name] = atmo.Field(number, key)
			}
		}
		result, err := json.Marshal(answer{
			Method: atmo.Field(atmo.Meta, "method"),
			URL:    atmo.Field(atmo.Meta, "url"),
			ID:     atmo.Field(atmo.Meta, "id"),
			Fields: fields,
		})
		if err != nil {
			return nil, &atmo.Error{Code: 500, Message: err.Error()}
		}
		return result, nil
	}
}

func main() {}
