// Compiled with its module's flags: compiles as it is, and must not with the forbidden include.
#ifdef EVOLORA_FORBIDDEN_INCLUDE
#include EVOLORA_FORBIDDEN_INCLUDE
#endif
#include "evolora/core/case.h"
