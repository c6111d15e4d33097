// Package atmo is the Runnable ABI for Go (wasip1, -buildmode=c-shared): a guest's init registers its function.
package atmo

import "unsafe"

// Error is what a run answers instead of a result.
type Error struct {
	Code    int32
	Message string
}

// The types of request fields.
const (
	Meta = iota
	Body
	Header
	Params
	State
	Query
)

// Run is set by the guest's init. A nil result without an error means: no output.
var Run func(input []byte) ([]byte, *Error)

var (
	// taken keeps what the host was given: the collector sees no reference from the host's side.
	taken = map[uintptr][]byte{}
	ident int32
)

//go:wasmimport env return_result
func returnResult(data unsafe.Pointer, size int32, ident int32)

//go:wasmimport env return_error
func returnError(code int32, message unsafe.Pointer, size int32, ident int32)

//go:wasmimport env get_ffi_result
func getFFIResult(target unsafe.Pointer, ident int32) int32

//go:wasmimport env request_get_field
func requestGetField(kind int32, key unsafe.Pointer, size int32, ident int32) int32

//go:wasmexport allocate
func allocate(size int32) unsafe.Pointer {
	block := make([]byte, max(size, 1))
	start := unsafe.Pointer(&block[0])
	taken[uintptr(start)] = block
	return start
}

//go:wasmexport deallocate
func deallocate(start unsafe.Pointer, _ int32) {
	delete(taken, uintptr(start))
}

//go:wasmexport run_e
func runE(data unsafe.Pointer, size int32, callIdent int32) {
	ident = callIdent
	result, failure := Run(unsafe.Slice((*byte)(data), size))
	if failure != nil {
		message := []byte(failure.Message)
		returnError(failure.Code, unsafe.Pointer(unsafe.SliceData(message)), int32(len(message)), ident)
	} else if result != nil {
		returnResult(unsafe.Pointer(unsafe.SliceData(result)), int32(len(result)), ident)
	}
}

// Field reads a field of the request; empty when there is none or the host refused.
func Field(kind int32, key string) string {
	size := requestGetField(kind, unsafe.Pointer(unsafe.StringData(key)), int32(len(key)), ident)
	if size == 0 || size == -1 {
		return ""
	}
	value := make([]byte, max(size, -size))
	status := getFFIResult(unsafe.Pointer(&value[0]), ident)
	if size < 0 || status != 0 {
		return "" // a negative size announced an error text
	}
	return string(value)
}
