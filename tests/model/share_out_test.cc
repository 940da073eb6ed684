#include "evolora/model/share_out.h"

#include <atomic>
#include <vector>

#include "gtest/gtest.h"

namespace evolora {
namespace {

TEST(ShareOut, CallsTheBodyOnceForEachNumber) {
  const int threads = at::get_num_threads();
  for (const int n : {1, 2, 5}) {
    at::set_num_threads(n);
    for (const int64_t count : {0, 1, 2, 7, 100, 1001}) {
      for (const int64_t grain : {1, 3, 50, 5000}) {
        std::vector<std::atomic<int>> calls(static_cast<size_t>(count));
        std::atomic<int64_t> short_ranges{0};
        ShareOut(count, grain, [&](int64_t begin, int64_t end) {
          if (end - begin < grain) ++short_ranges;
          for (int64_t i = begin; i < end; ++i) ++calls[static_cast<size_t>(i)];
        });
        for (const std::atomic<int>& c : calls)
          EXPECT_EQ(c, 1) << n << " " << count << " " << grain;
        EXPECT_LE(short_ranges, 1);  // the last
      }
    }
  }
  at::set_num_threads(threads);
}

// Buffers by thread number rely on it.
TEST(ShareOut, WithinParallelWorkTheThreadIsNumberZero) {
  const int threads = at::get_num_threads();
  at::set_num_threads(2);
  std::atomic<int> others{0};
  at::parallel_for(0, 2, 1, [&](int64_t, int64_t) {
    ShareOut(10, 1, [&](int64_t begin, int64_t end) {
      EXPECT_EQ(end - begin, 10);
      if (at::get_thread_num() != 0) ++others;
    });
  });
  EXPECT_EQ(others, 0);
  at::set_num_threads(threads);
}

}  // namespace
}  // namespace evolora
