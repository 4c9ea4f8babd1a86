// Attention of many queries to many keys in bfloat16, with the instruction for it that AVX-512 has.
//
// A query's result is summed by one thread in one order, so it has the same bits in any company.
//
// Shapes: B batch, H heads, S queries, L keys, D width of a head, an even number.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#if defined(__AVX512BF16__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using at::Tensor;
using std::int64_t;

constexpr int64_t LANES = 16;
constexpr int64_t ROWS = 6;        // queries at a time, whose sums fit the registers
constexpr int64_t TILE = 4;        // vectors of sums per query
constexpr int64_t QUERIES = 48;    // per task
constexpr float TINY = -1e30f;     // a score that has no weight

inline __m512bh pair_of(const uint32_t* at) { return (__m512bh)_mm512_set1_epi32(*at); }

inline __m512bh load(const uint32_t* from) { return (__m512bh)_mm512_loadu_si512(from); }

// Adds the products of M rows of pairs x [M, K] and pairs w [K, N * 16] to sums [M, N * 16].
template <int M, int N>
[[gnu::noinline]] void multiply(
    const uint32_t* x, int64_t x_stride, const uint32_t* w, int64_t w_stride, int64_t K,
    float* sums, int64_t stride) {
  __m512 a[M][N];
#pragma GCC unroll 6
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) a[m][n] = _mm512_setzero_ps();
  for (int64_t k = 0; k < K; ++k, w += w_stride) {
    __m512bh b[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) b[n] = load(w + n * LANES);
#pragma GCC unroll 6
    for (int m = 0; m < M; ++m) {
      const __m512bh value = pair_of(x + m * x_stride + k);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) a[m][n] = _mm512_dpbf16_ps(a[m][n], value, b[n]);
    }
  }
#pragma GCC unroll 6
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) _mm512_storeu_ps(sums + m * stride + n * LANES, a[m][n]);
}

template <int M>
void multiply_columns(
    const uint32_t* x, int64_t x_stride, const uint32_t* w, int64_t w_stride, int64_t K,
    float* sums, int64_t stride, int64_t columns) {
  for (int64_t n = 0; n < columns; n += TILE, w += TILE * LANES, sums += TILE * LANES) switch (
      std::min(TILE, columns - n)) {
      case 1: multiply<M, 1>(x, x_stride, w, w_stride, K, sums, stride); break;
      case 2: multiply<M, 2>(x, x_stride, w, w_stride, K, sums, stride); break;
      case 3: multiply<M, 3>(x, x_stride, w, w_stride, K, sums, stride); break;
      default: multiply<M, 4>(x, x_stride, w, w_stride, K, sums, stride);
    }
}

// sums [M, columns * 16] = rows of pairs x [M, K] times pairs w [K, columns * 16].
void multiply_rows(
    int64_t M, const uint32_t* x, int64_t x_stride, const uint32_t* w, int64_t w_stride, int64_t K,
    float* sums, int64_t stride, int64_t columns) {
  switch (M) {
    case 1: return multiply_columns<1>(x, x_stride, w, w_stride, K, sums, stride, columns);
    case 2: return multiply_columns<2>(x, x_stride, w, w_stride, K, sums, stride, columns);
    case 3: return multiply_columns<3>(x, x_stride, w, w_stride, K, sums, stride, columns);
    case 4: return multiply_columns<4>(x, x_stride, w, w_stride, K, sums, stride, columns);
    case 5: return multiply_columns<5>(x, x_stride, w, w_stride, K, sums, stride, columns);
    case 6: return multiply_columns<6>(x, x_stride, w, w_stride, K, sums, stride, columns);
  }
}

// 2^x of numbers up to 0, to 12 bits: more than bfloat16 keeps.
inline __m512 power_of_two(__m512 x) {
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_sub_ps(x, n);
  __m512 y = _mm512_set1_ps(5.5171669e-2f);
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(2.4261112e-1f));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(6.9326098e-1f));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(9.9992807e-1f));
  return _mm512_scalef_ps(y, n);
}

// Turns scores [L] into weights, two to a word, in place of the first half; returns 1 / their sum.
float to_weights(float* scores, int64_t L, float scale) {
  __m512 most = _mm512_set1_ps(TINY);
  for (int64_t i = 0; i < L; i += LANES) most = _mm512_max_ps(most, _mm512_loadu_ps(scores + i));
  const __m512 by = _mm512_set1_ps(scale);
  most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  __m512 sum = _mm512_setzero_ps();
  auto* to = reinterpret_cast<uint16_t*>(scores);  // never ahead of what is read
  for (int64_t i = 0; i < L; i += LANES) {
    const __m512 weights = power_of_two((_mm512_loadu_ps(scores + i) - most) * by);
    sum = _mm512_add_ps(sum, weights);
    _mm256_storeu_si256(
        reinterpret_cast<__m256i*>(to + i), (__m256i)_mm512_cvtneps_pbh(weights));
  }
  return 1.0f / _mm512_reduce_add_ps(sum);
}

inline int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

// One head's keys and values, as the products want them; L and D are padded with zeros.
struct Packed {
  int64_t L, D;
  uint32_t* keys;    // [D / 2, padded L], pairs of a key's numbers
  uint32_t* values;  // [padded L / 2, padded D], pairs of a number of two values

  static int64_t size(int64_t L, int64_t D) { return padded(L) * (padded(D) + D) / 2; }

  Packed(int64_t L, int64_t D, uint32_t* at)
      : L(L), D(D), keys(at), values(at + padded(L) * D / 2) {}

  void take(const uint16_t* k, int64_t k_stride, const uint16_t* v, int64_t v_stride) {
    const int64_t room = padded(L), width = padded(D);
    for (int64_t i = 0; i < L; ++i)
      for (int64_t d = 0; d < D / 2; ++d)
        std::memcpy(keys + d * room + i, k + i * k_stride + 2 * d, sizeof *keys);
    for (int64_t i = 0; i < L; i += 2) {
      const uint16_t *first = v + i * v_stride, *second = first + v_stride;
      for (int64_t d = 0; d < D; ++d)
        values[i / 2 * width + d] = first[d] | (i + 1 < L ? second[d] : 0u) << 16;
    }
  }
};

// The results of `count` queries of one head.
void attend_queries(
    const uint16_t* q, int64_t q_stride, int64_t count, const Packed& packed, uint16_t* out,
    int64_t out_stride, std::vector<float>& scratch) {
  const int64_t D = packed.D, room = padded(packed.L), width = padded(D);
  scratch.resize(ROWS * (room + width + D / 2));
  float* const scores = scratch.data();
  float* const sums = scores + ROWS * room;
  auto* const queries = reinterpret_cast<uint32_t*>(sums + ROWS * width);
  const float scale = 1.44269504f / std::sqrt(static_cast<float>(D));
  for (int64_t first = 0; first < count; first += ROWS) {
    const int64_t M = std::min(ROWS, count - first);
    for (int64_t m = 0; m < M; ++m)
      std::memcpy(queries + m * D / 2, q + (first + m) * q_stride, D * sizeof *q);
    multiply_rows(M, queries, D / 2, packed.keys, room, D / 2, scores, room, room / LANES);
    float share[ROWS];
    for (int64_t m = 0; m < M; ++m) {
      float* row = scores + m * room;
      std::fill(row + packed.L, row + room, TINY);
      share[m] = to_weights(row, room, scale);
    }
    multiply_rows(
        M, reinterpret_cast<uint32_t*>(scores), room, packed.values, width, room / 2, sums, width,
        width / LANES);
    for (int64_t m = 0; m < M; ++m)
      for (int64_t d = 0; d < D; d += LANES) {
        const __m512 y = _mm512_loadu_ps(sums + m * width + d) * share[m];
        const __mmask16 within = (1u << std::min(LANES, D - d)) - 1;
        _mm256_mask_storeu_epi16(
            out + (first + m) * out_stride + d, within, (__m256i)_mm512_cvtneps_pbh(y));
      }
  }
}

// Attends from q [B, H, S, D] to all of k, v [B, H, L, D]; returns [B, S, H, D].
Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v) {
  const int64_t B = q.size(0), H = q.size(1), S = q.size(2), D = q.size(3), L = k.size(2);
  for (const Tensor* x : {&q, &k, &v})
    TORCH_CHECK(x->scalar_type() == at::kBFloat16 && x->stride(3) == 1 && x->size(3) == D);
  TORCH_CHECK(D % 2 == 0 && L > 0 && k.sizes() == v.sizes() && k.size(0) == B && k.size(1) == H);
  const int64_t size = Packed::size(L, D);
  std::vector<uint32_t> memory(B * H * size);
  const auto of = [H](const Tensor& x, int64_t head) {
    return static_cast<uint16_t*>(x.data_ptr()) + head / H * x.stride(0) + head % H * x.stride(1);
  };
  const auto packed = [&](int64_t head) { return Packed(L, D, memory.data() + head * size); };
  at::parallel_for(0, B * H, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      packed(i).take(of(k, i), k.stride(2), of(v, i), v.stride(2));
  });
  Tensor out = at::empty({B, S, H, D}, q.options());
  const int64_t blocks = (S + QUERIES - 1) / QUERIES;
  at::parallel_for(0, B * H * blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t head = i / blocks, first = i % blocks * QUERIES;
      auto* to = static_cast<uint16_t*>(out.data_ptr());
      attend_queries(
          of(q, head) + first * q.stride(2), q.stride(2), std::min(QUERIES, S - first),
          packed(head), to + (head / H * S + first) * H * D + head % H * D, H * D, scratch);
    }
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(lm_audio, library) {
  library.def("attend(Tensor q, Tensor k, Tensor v) -> Tensor", attend);
}
#endif
