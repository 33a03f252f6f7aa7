# A CMake "toolchain" that changes no tool: it leaves out what we never use of the FlatBuffers
# sources (their tests and their C++ runtime), which halves the time it takes to build flatc.
set(FLATBUFFERS_BUILD_TESTS OFF CACHE BOOL "" FORCE)
set(FLATBUFFERS_BUILD_FLATLIB OFF CACHE BOOL "" FORCE)
