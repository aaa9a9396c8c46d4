#include "trace/trace-hw_misc_pvmemctl.h"
