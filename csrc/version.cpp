// The one symbol a program links to; all the rest it finds in torch's dispatcher. So the linker keeps the library, and
// says so when it is forgotten.
extern "C" __attribute__((visibility("default"))) const char* fastsqrtm_version() { return FASTSQRTM_VERSION; }
