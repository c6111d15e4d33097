// Command stdin-to-stdout is a WASI command: stdin goes to stdout as it is.
package main

import (
	"fmt"
	"io"
	"os"
)

func main() {
	if _, err := io.Copy(os.Stdout, os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(74)
	}
}
