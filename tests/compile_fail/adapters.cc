// Compiled with the flags of module `adapters`: it must compile as it is and not with the forbidden include.
#ifdef EVOLORA_FORBIDDEN_INCLUDE
#include EVOLORA_FORBIDDEN_INCLUDE
#endif
#include "evolora/adapters/lora_adapter.h"
