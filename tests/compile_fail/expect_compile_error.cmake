# cmake -DCOMPILER=.. -DFLAGS=<response file> -DSOURCE=<file.cc> -DHEADER=<forbidden> -P <this>
# Fails unless SOURCE compiles as it is and does not compile with HEADER included.
set(command "${COMPILER}" "@${FLAGS}")
execute_process(COMMAND ${command} "${SOURCE}" RESULT_VARIABLE without ERROR_VARIABLE error)
if(NOT without EQUAL 0)
  message(FATAL_ERROR "${SOURCE} must compile without the forbidden include:\n${error}")
endif()
execute_process(COMMAND ${command} "-DEVOLORA_FORBIDDEN_INCLUDE=\"${HEADER}\"" "${SOURCE}"
  RESULT_VARIABLE with ERROR_VARIABLE error)
if(with EQUAL 0)
  message(FATAL_ERROR "${SOURCE} compiles although it includes ${HEADER}")
endif()
string(FIND "${error}" "${HEADER}: No such file or directory" gcc_words)
string(FIND "${error}" "'${HEADER}' file not found" clang_words)
if(gcc_words EQUAL -1 AND clang_words EQUAL -1)
  message(FATAL_ERROR "${SOURCE} with ${HEADER} fails for another reason:\n${error}")
endif()
