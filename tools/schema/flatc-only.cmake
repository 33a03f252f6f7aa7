# A CMake "toolchain" file that sets no tools. It leaves out the parts of FlatBuffers that we do not use (its tests and
# its C++ runtime), which halves the build time of flatc.
set(FLATBUFFERS_BUILD_TESTS OFF CACHE BOOL "" FORCE)
set(FLATBUFFERS_BUILD_FLATLIB OFF CACHE BOOL "" FORCE)
