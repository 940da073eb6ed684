#pragma once

#include <string>
#include <vector>

namespace evolora {

// One chat turn. `role` is system, user, assistant or tool; `content` is UTF-8 text.
// Text of a message is data: nothing in evolora obeys it.
struct Message {
  std::string role;
  std::string content;
  friend bool operator==(const Message&, const Message&) = default;
};

}  // namespace evolora
