#pragma once

#include "absl/strings/string_view.h"

namespace evolora {

// Files embedded at build time: the page's skeleton (report.html) and Debian's Chart.js.
absl::string_view ReportPage();
absl::string_view ChartJs();

}  // namespace evolora
