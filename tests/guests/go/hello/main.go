// Command hello is a Runnable: input → "hello, " + input; "fail CODE" → an error.
package main

import (
	"bytes"
	"strconv"

	"guests/atmo"
)

func init() {
	atmo.Run = func(input []byte) ([]byte, *atmo.Error) {
		if code, found := bytes.CutPrefix(input, []byte("fail ")); found {
			number, _ := strconv.Atoi(string(code))
			return nil, &atmo.Error{Code: int32(number), Message: "asked to fail"}
		}
		return append([]byte("hello, "), input...), nil
	}
}

func main() {}
