// Compiled with the flags of module `eval`: it must compile as it is and not with the forbidden include.
#ifdef EVOLORA_FORBIDDEN_INCLUDE
#include EVOLORA_FORBIDDEN_INCLUDE
#endif
#include "evolora/eval/verify.h"
