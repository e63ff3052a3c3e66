"""python3 dxc-check.py PATH/TO/libdxcompiler.so < JOBS > ANSWERS

Compiles HLSL with Microsoft's DirectX shader compiler, through the COM interface that its shared library exports
(dxcapi.h). JOBS is a JSON array of {text, options: {arguments: [string]}}, ANSWERS one of null (accepted) and messages.
"""

import ctypes
import json
import sys
import uuid


def guid(text):
    return (ctypes.c_ubyte * 16).from_buffer_copy(uuid.UUID(text).bytes_le)


CLSID_DXC_COMPILER = guid("73e22d93-e6ce-47f3-b5bf-f0664f39c1b0")
IID_IDXC_COMPILER3 = guid("228b4687-5a6a-4730-900c-9702b2203f54")
IID_IDXC_RESULT = guid("58346cda-dde7-4497-9461-6f87af5e0659")
IID_IDXC_BLOB = guid("8ba5fb08-5195-40e2-ac58-0d989c3a0102")
IID_IDXC_BLOB_UTF8 = guid("3da636c9-ba71-4024-a301-30cbf125305b")

# Places in the tables of virtual functions. IUnknown has three: QueryInterface, AddRef, Release.
RELEASE = 2
COMPILER3_COMPILE = 3
RESULT_GET_STATUS = 3
RESULT_GET_OUTPUT = 7
BLOB_GET_POINTER = 3
BLOB_GET_SIZE = 4

OUT_OBJECT = 1
OUT_ERRORS = 2
CODE_PAGE_UTF8 = 65001

POINTER = ctypes.c_void_p
HRESULT = ctypes.c_int32


class DxcBuffer(ctypes.Structure):
    _fields_ = [("pointer", ctypes.c_char_p), ("size", ctypes.c_size_t), ("encoding", ctypes.c_uint32)]


def call(this, place, result, *arguments):
    """Calls the virtual function at `place` of a COM object; each argument is a (ctypes type, value) pair."""
    table = ctypes.cast(ctypes.cast(this, ctypes.POINTER(POINTER))[0], ctypes.POINTER(POINTER))
    function = ctypes.CFUNCTYPE(result, POINTER, *(kind for kind, _ in arguments))(table[place])
    return function(this, *(value for _, value in arguments))


def succeed(hresult, what):
    if hresult != 0:
        raise OSError(f"{what}: HRESULT {hresult & 0xFFFFFFFF:#010x}")


def output(result, kind, interface):
    """One of a result's outputs as bytes; empty if it has none of that kind."""
    blob, name = POINTER(), POINTER()
    arguments = [
        (ctypes.c_uint32, kind),
        (POINTER, ctypes.addressof(interface)),
        (POINTER, ctypes.addressof(blob)),
        (POINTER, ctypes.addressof(name)),
    ]
    if call(result, RESULT_GET_OUTPUT, HRESULT, *arguments) != 0 or not blob:
        return b""
    size = call(blob, BLOB_GET_SIZE, ctypes.c_size_t)
    data = ctypes.string_at(call(blob, BLOB_GET_POINTER, POINTER), size) if size else b""
    call(blob, RELEASE, ctypes.c_uint32)
    if name:
        call(name, RELEASE, ctypes.c_uint32)
    return data


def check(compiler, text, arguments):
    """None if `text` compiles to a DXIL container, else the compiler's message."""
    source = text.encode()
    buffer = DxcBuffer(source, len(source), CODE_PAGE_UTF8)
    strings = (ctypes.c_wchar_p * len(arguments))(*arguments)
    result = POINTER()
    hresult = call(
        compiler,
        COMPILER3_COMPILE,
        HRESULT,
        (POINTER, ctypes.addressof(buffer)),
        (POINTER, ctypes.addressof(strings)),
        (ctypes.c_uint32, len(arguments)),
        (POINTER, None),  # no #include handler
        (POINTER, ctypes.addressof(IID_IDXC_RESULT)),
        (POINTER, ctypes.addressof(result)),
    )
    succeed(hresult, "Compile")
    status = HRESULT()
    succeed(call(result, RESULT_GET_STATUS, HRESULT, (POINTER, ctypes.addressof(status))), "GetStatus")
    message = output(result, OUT_ERRORS, IID_IDXC_BLOB_UTF8).rstrip(b"\0").decode(errors="replace").strip()
    container = output(result, OUT_OBJECT, IID_IDXC_BLOB)
    call(result, RELEASE, ctypes.c_uint32)
    if status.value != 0:
        return message or f"HRESULT {status.value & 0xFFFFFFFF:#010x}"
    return None if container[:4] == b"DXBC" else "no DXIL container was written"


def main():
    library = ctypes.CDLL(sys.argv[1])
    compiler = POINTER()
    hresult = library.DxcCreateInstance(
        ctypes.byref(CLSID_DXC_COMPILER), ctypes.byref(IID_IDXC_COMPILER3), ctypes.byref(compiler)
    )
    succeed(hresult, "DxcCreateInstance")
    jobs = json.load(sys.stdin)
    json.dump([check(compiler, job["text"], job["options"]["arguments"]) for job in jobs], sys.stdout)


if __name__ == "__main__":
    main()
