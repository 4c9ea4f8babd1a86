// The steps of a decode loop on a CPU: linear layers of few rows, and attention from one position.
//
// Each number is summed by one thread in one order, whatever the number of rows and of threads, so
// a row gets the same bits in any company. Vectors are those of GCC and Clang, as wide as the CPU's:
// GCC keeps wider ones in memory. int8 needs VNNI or AVX2.
//
// Shapes: M rows, K inputs, N outputs, P = ceil(N / 64) panels; R rows of a cache, H heads,
// L positions, D width of a head.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/silu.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>
#include <vector>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

using at::Tensor;
using std::int64_t;

#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int64_t MOST_ROWS = 6;  // whose sums fit the registers
#else
constexpr int LANES = 8;
constexpr int64_t MOST_ROWS = 2;
#endif
constexpr int LINE = 64;  // bytes that memory gives at once
typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef int8_t Bytes __attribute__((vector_size(LANES)));
typedef float Lanes8 __attribute__((vector_size(32)));
typedef float Lanes4 __attribute__((vector_size(16)));

constexpr int64_t PANEL = 64;   // outputs whose weights lie together
constexpr int64_t TILE = 4 * LANES;  // outputs whose sums are in registers at the same time
constexpr int64_t CHUNK = 64;   // inputs for all rows before the next ones: their weights stay near
constexpr int64_t AHEAD = 4096;  // bytes of keys and values that are asked for before they are read
constexpr int64_t LEAST_WORK = 1 << 15;  // products that are worth another thread

struct bfloat { uint16_t bits; };

inline Lanes load(const float* from) {
  Lanes lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

inline Lanes load(const bfloat* from) {
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  return (Lanes)(__builtin_convertvector(halves, Words) << 16);
}

inline Lanes load(const int8_t* from) {
  Bytes bytes;
  std::memcpy(&bytes, from, sizeof bytes);
#if defined(__AVX512F__)  // GCC itself converts bytes one by one
  return (Lanes)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)bytes));
#elif defined(__AVX2__)
  const __m128i low = _mm_cvtsi64_si128((int64_t)bytes);
  return (Lanes)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low));
#else
  return __builtin_convertvector(__builtin_convertvector(bytes, Ints), Lanes);
#endif
}

// What a panel has for one input, or a part of it: TILE outputs. Of bfloat16, two lie in a word, 16
// outputs apart.
inline void load_outputs(const float* from, Lanes to[4]) {
  for (int j = 0; j < 4; ++j) to[j] = load(from + j * LANES);
}

inline void load_outputs(const bfloat* from, Lanes to[4]) {
  constexpr int HALF = 16 / LANES;  // vectors of the outputs in the lower halves of words
  for (int j = 0; j < 2; ++j) {
    Words both;
    std::memcpy(&both, from + 2 * j * LANES, sizeof both);
    const int first = HALF == 1 ? 2 * j : j;
    to[first] = (Lanes)(both << 16);
    to[first + HALF] = (Lanes)(both & 0xffff0000u);
  }
}

inline void store(float* to, Lanes lanes) { std::memcpy(to, &lanes, sizeof lanes); }

inline bfloat rounded(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

// The largest of x [N], by its distance from 0.
inline float largest_of(const float* x, int64_t N) {
  Lanes most = Lanes{} + 1e-12f;
  int64_t i = 0;
  for (; i + LANES <= N; i += LANES) {
    const Lanes here = load(x + i), size = here > 0.0f ? here : -here;
    most = size > most ? size : most;
  }
  float largest = 0.0f;
  for (int lane = 0; lane < LANES; ++lane) largest = std::max(largest, most[lane]);
  for (; i < N; ++i) largest = std::max(largest, std::fabs(x[i]));
  return largest;
}

// How a key or a value [D] is kept, in `room(D)` numbers. Bytes are followed by their scale.
template <typename S>
constexpr int64_t room(int64_t D) { return std::is_same_v<S, int8_t> ? D + sizeof(float) : D; }

inline float scale_of(const float*, int64_t) { return 1.0f; }
inline float scale_of(const bfloat*, int64_t) { return 1.0f; }
inline float scale_of(const int8_t* kept, int64_t D) {
  float scale;
  std::memcpy(&scale, kept + D, sizeof scale);
  return scale;
}

inline void keep(float* to, const float* x, int64_t D) { std::memcpy(to, x, D * sizeof *x); }
inline void keep(bfloat* to, const float* x, int64_t D) {
  for (int64_t d = 0; d < D; ++d) to[d] = rounded(x[d]);
}
inline void keep(int8_t* to, const float* x, int64_t D) {
  const float scale = largest_of(x, D) / 127.0f;
  for (int64_t d = 0; d < D; ++d) to[d] = static_cast<int8_t>(std::nearbyint(x[d] / scale));
  std::memcpy(to + D, &scale, sizeof scale);
}

template <typename Half, typename Whole>
inline Half folded(Whole x) {
  Half a, b;
  std::memcpy(&a, &x, sizeof a);
  std::memcpy(&b, reinterpret_cast<char*>(&x) + sizeof a, sizeof b);
  return a + b;
}

inline float total(Lanes4 x) { return (x[0] + x[2]) + (x[1] + x[3]); }
inline float total(Lanes8 x) { return total(folded<Lanes4>(x)); }
#if defined(__AVX512F__)
inline float total(Lanes x) { return total(folded<Lanes8>(x)); }
#endif

// exp of numbers up to 0, to 2 ulp: 2^n of the whole part, a polynomial of the rest.
inline Lanes exponential(Lanes x) {
  const Lanes least = Lanes{} - 86.0f;
  x = x > least ? x : least;
  // Conversion cuts towards 0, and nothing here is above it, so this is the nearest whole number.
  const Ints whole = __builtin_convertvector(x * 1.44269504f - 0.5f, Ints);
  const Lanes n = __builtin_convertvector(whole, Lanes);
  Lanes r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Lanes y = Lanes{} + 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  return (Lanes)((Ints)y + (whole << 23));
}

// Adds x [M, K] times a part of a panel of weights [K, TILE of 64] to sums [M, TILE of 64]; meanwhile
// asks for `ask` steps of the weights at `next`. GCC keeps sums in registers where rows are unrolled
// and nothing is around.
template <int M, typename W>
[[gnu::noinline]] void multiply(
    const float* x, int64_t stride, const W* w, int64_t K, float* sums, const W* next,
    int64_t ask) {
  Lanes a[M][4] = {};
  for (int64_t k = 0; k < K; ++k, w += PANEL) {
    if (k < ask)
      for (int i = 0; i < PANEL; i += LINE / sizeof(W))
        __builtin_prefetch(next + k * PANEL + i, 0, 2);
    Lanes b[4];
    load_outputs(w, b);
#pragma GCC unroll 6
    for (int m = 0; m < M; ++m) {
      const float value = x[m * stride + k];
      for (int j = 0; j < 4; ++j) a[m][j] += value * b[j];
    }
  }
#pragma GCC unroll 6
  for (int m = 0; m < M; ++m)
    for (int j = 0; j < 4; ++j) {
      float* sum = sums + m * PANEL + j * LANES;
      store(sum, load(sum) + a[m][j]);
    }
}

#if defined(__AVX2__)
#define HAS_INT8
// Whole numbers: four inputs at a time, x [M, 4 K] and weights [K, 64, 4].
#if defined(__AVX512VNNI__)
constexpr int ZERO = 128;  // x is unsigned, and this stands for 0
typedef __m512i Sums;
inline Sums load_sums(const void* from) { return _mm512_loadu_si512(from); }
inline void store_sums(void* to, Sums sums) { _mm512_storeu_si512(to, sums); }
inline Sums four(int32_t x) { return _mm512_set1_epi32(x); }
inline Sums add_products(Sums sums, Sums x, Sums w) { return _mm512_dpbusd_epi32(sums, x, w); }
#else
typedef __m256i Sums;
inline Sums load_sums(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
inline void store_sums(void* to, Sums sums) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), sums);
}
inline Sums four(int32_t x) { return _mm256_set1_epi32(x); }
#if defined(__AVXVNNI__)
constexpr int ZERO = 128;
inline Sums add_products(Sums sums, Sums x, Sums w) {
  return _mm256_dpbusd_avx_epi32(sums, x, w);
}
#else
constexpr int ZERO = 0;  // x is signed, its size at most 127, so two products fit 16 bits
inline Sums add_products(Sums sums, Sums x, Sums w) {
  const Sums pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif
#endif

template <int M>
[[gnu::noinline]] void multiply(
    const uint8_t* x, int64_t stride, const int8_t* w, int64_t K, int32_t* sums,
    const int8_t* next, int64_t ask) {
  Sums a[M][4];
#pragma GCC unroll 6
  for (int m = 0; m < M; ++m)
    for (int j = 0; j < 4; ++j) a[m][j] = load_sums(sums + m * PANEL + j * LANES);
  for (int64_t k = 0; k < K; ++k, w += 4 * PANEL) {
    if (k < ask)
      for (int i = 0; i < 4 * PANEL; i += LINE) __builtin_prefetch(next + 4 * k * PANEL + i, 0, 2);
    Sums b[4];
    for (int j = 0; j < 4; ++j) b[j] = load_sums(w + 4 * LANES * j);
#pragma GCC unroll 6
    for (int m = 0; m < M; ++m) {
      int32_t together;
      std::memcpy(&together, x + m * stride + 4 * k, sizeof together);
      const Sums value = four(together);
      for (int j = 0; j < 4; ++j) a[m][j] = add_products(a[m][j], value, b[j]);
    }
  }
#pragma GCC unroll 6
  for (int m = 0; m < M; ++m)
    for (int j = 0; j < 4; ++j) store_sums(sums + m * PANEL + j * LANES, a[m][j]);
}
#endif

// As `multiply`, for the whole panel.
template <int M, typename X, typename W, typename S>
void multiply_panel(
    const X* x, int64_t stride, const W* w, int64_t K, S* sums, const W* next, int64_t ask) {
  constexpr int64_t WIDTH = std::is_same_v<W, int8_t> ? 4 : 1;
  for (int64_t n = 0; n < PANEL; n += TILE)
    multiply<M>(x, stride, w + n * WIDTH, K, sums + n, next, n == 0 ? ask : 0);
}

template <typename X, typename W, typename S>
void multiply_any(
    int64_t M, const X* x, int64_t stride, const W* w, int64_t K, S* sums, const W* next,
    int64_t ask) {
  switch (M) {
    case 1: return multiply_panel<1>(x, stride, w, K, sums, next, ask);
    case 2: return multiply_panel<2>(x, stride, w, K, sums, next, ask);
#if defined(__AVX512F__)
    case 3: return multiply_panel<3>(x, stride, w, K, sums, next, ask);
    case 4: return multiply_panel<4>(x, stride, w, K, sums, next, ask);
    case 5: return multiply_panel<5>(x, stride, w, K, sums, next, ask);
    case 6: return multiply_panel<6>(x, stride, w, K, sums, next, ask);
#endif
  }
}

// For each panel: sums [M, 64] of x [M, K] times its weights, then `finish(panel, sums)`.
// K is in steps of the weights, each of which reads WIDTH of x and WIDTH * PANEL weights.
template <typename S, typename X, typename W, typename F>
void for_panels(int64_t M, int64_t K, int64_t P, const X* x, const W* w, F finish) {
  constexpr int64_t WIDTH = std::is_same_v<W, int8_t> ? 4 : 1;
  const int64_t work = std::max<int64_t>(M * K * WIDTH * PANEL, 1);
  const int64_t blocks = std::max<int64_t>((M + MOST_ROWS - 1) / MOST_ROWS, 1);
  const int64_t rows = (M + blocks - 1) / blocks;  // in each block
  at::parallel_for(0, P, (LEAST_WORK + work - 1) / work, [&](int64_t begin, int64_t end) {
    std::vector<S> sums(M * PANEL);
    for (int64_t p = begin; p < end; ++p) {
      std::fill(sums.begin(), sums.end(), S{0});
      for (int64_t k = 0; k < K; k += CHUNK) {
        const W* chunk = w + (p * K + k) * WIDTH * PANEL;
        for (int64_t block = 0; block < blocks; ++block) {  // each asks for its share of the next
          const int64_t m = block * rows;
          const int64_t asked = block * CHUNK / blocks, after = (block + 1) * CHUNK / blocks;
          multiply_any(
              std::min(rows, M - m), x + (m * K + k) * WIDTH, K * WIDTH, chunk,
              std::min(CHUNK, K - k), sums.data() + m * PANEL,
              chunk + (CHUNK + asked) * WIDTH * PANEL, after - asked);
        }
      }
      finish(p, sums.data());
    }
  });
}

// y [M, N] = x [M, K] times packed weights [P, K, 64], plus a bias [N].
Tensor linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, int64_t N) {
  const int64_t M = x.size(0), K = x.size(1), P = weight.size(0);
  TORCH_CHECK(x.is_contiguous() && weight.is_contiguous() && x.scalar_type() == at::kFloat);
  TORCH_CHECK(weight.size(1) == K && weight.size(2) == PANEL && P * PANEL >= N);
  Tensor y = at::empty({M, N}, x.options());
  float* to = y.data_ptr<float>();
  const float* add = bias ? bias->data_ptr<float>() : nullptr;
  const auto finish = [&](int64_t p, const float* sums) {
    const int64_t first = p * PANEL, count = std::min(PANEL, N - first);
    for (int64_t m = 0; m < M; ++m)
      for (int64_t n = 0; n < count; ++n)
        to[m * N + first + n] = sums[m * PANEL + n] + (add ? add[first + n] : 0.0f);
  };
  const float* from = x.data_ptr<float>();
  if (weight.scalar_type() == at::kBFloat16)
    for_panels<float>(M, K, P, from, static_cast<const bfloat*>(weight.data_ptr()), finish);
  else
    for_panels<float>(M, K, P, from, weight.data_ptr<float>(), finish);
  return y;
}

#if defined(HAS_INT8)
// As `linear`, of whole numbers: weights [P, K / 4, 64, 4], the scale and the sum of each output's.
// A row is rounded to whole numbers of ZERO + -127 ... 127, with a scale of its own.
Tensor linear_int8(
    const Tensor& x, const Tensor& weight, const Tensor& scale, const Tensor& weight_sums,
    const std::optional<Tensor>& bias, int64_t N) {
  const int64_t M = x.size(0), K = x.size(1), P = weight.size(0), K4 = weight.size(1);
  TORCH_CHECK(x.is_contiguous() && weight.is_contiguous() && x.scalar_type() == at::kFloat);
  TORCH_CHECK(4 * K4 >= K && 4 * K4 < K + 4 && weight.size(2) == PANEL && P * PANEL >= N);
  std::vector<uint8_t> whole(M * 4 * K4, ZERO);
  std::vector<float> row_scale(M);
  const float* from = x.data_ptr<float>();
  at::parallel_for(0, M, (LEAST_WORK + K - 1) / K, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const float* row = from + m * K;
      const float largest = largest_of(row, K), inverse = 127.0f / largest;
      row_scale[m] = largest / 127.0f;
      uint8_t* to = whole.data() + m * 4 * K4;
      for (int64_t k = 0; k < K; ++k)
        to[k] = static_cast<uint8_t>(static_cast<int32_t>(row[k] * inverse + 128.5f) - 128 + ZERO);
    }
  });
  Tensor y = at::empty({M, N}, x.options());
  float* to = y.data_ptr<float>();
  const float* by = scale.data_ptr<float>();
  const int32_t* of = weight_sums.data_ptr<int32_t>();
  const float* add = bias ? bias->data_ptr<float>() : nullptr;
  for_panels<int32_t>(
      M, K4, P, whole.data(), weight.data_ptr<int8_t>(), [&](int64_t p, const int32_t* sums) {
        const int64_t first = p * PANEL, count = std::min(PANEL, N - first);
        for (int64_t m = 0; m < M; ++m)
          for (int64_t n = 0; n < count; ++n) {
            const float sum = static_cast<float>(sums[m * PANEL + n] - ZERO * of[first + n]);
            to[m * N + first + n] =
                sum * (row_scale[m] * by[first + n]) + (add ? add[first + n] : 0.0f);
          }
      });
  return y;
}
#endif

// What one head of one row needs.
struct Head {
  const float* q;       // [D]
  int64_t first, stop;  // the positions that it sees
  const float* bias;    // [L], or null
  float* out;           // [D]
  const void* then;     // what is read after its values
};

template <int V, typename S>
void attend_head(const Head& head, const S* keys, const S* values, std::vector<float>& scores) {
  constexpr int64_t D = V * LANES, ROOM = room<S>(D);
  const float scale = 1.0f / std::sqrt(static_cast<float>(D));
  Lanes q[V];
  for (int v = 0; v < V; ++v) q[v] = load(head.q + v * LANES) * scale;
  const int64_t count = head.stop - head.first;
  keys += head.first * ROOM;
  values += head.first * ROOM;
  // Asks for what comes so long after x[i], in x or in what is read then.
  const auto ask = [count](const S* x, const void* then, int64_t i) {
    i += AHEAD / (ROOM * sizeof(S));
    const S* at = i < count ? x + i * ROOM : static_cast<const S*>(then) + (i - count) * ROOM;
    for (int64_t d = 0; d < D; d += LINE / sizeof(S)) __builtin_prefetch(at + d);
  };
  const int64_t size = (count + LANES - 1) / LANES * LANES;
  if (static_cast<int64_t>(scores.size()) < size) scores.resize(size);
  float largest = -INFINITY;
  for (int64_t i = 0; i < count; ++i) {
    ask(keys, values, i);
    const S* key = keys + i * ROOM;
    Lanes sum = q[0] * load(key);
    for (int v = 1; v < V; ++v) sum += q[v] * load(key + v * LANES);
    scores[i] = total(sum) * scale_of(key, D) + (head.bias ? head.bias[head.first + i] : 0.0f);
    largest = std::max(largest, scores[i]);
  }
  std::fill(scores.begin() + count, scores.begin() + size, -INFINITY);
  Lanes sums{};
  for (int64_t i = 0; i < size; i += LANES) {
    Lanes weights = exponential(load(scores.data() + i) - largest);
    if (i + LANES > count)
      for (int64_t j = count - i; j < LANES; ++j) weights[j] = 0.0f;
    store(scores.data() + i, weights);
    sums += weights;
  }
  Lanes out[V] = {};
  for (int64_t i = 0; i < count; ++i) {
    ask(values, head.then, i);
    const S* value = values + i * ROOM;
    const float weight = scores[i] * scale_of(value, D);
    for (int v = 0; v < V; ++v) out[v] += weight * load(value + v * LANES);
  }
  const float share = 1.0f / total(sums);
  for (int v = 0; v < V; ++v) store(head.out + v * LANES, out[v] * share);
}

template <typename S>
void attend_head(
    int64_t D, const Head& head, const S* keys, const S* values, std::vector<float>& scores) {
  switch (D / LANES) {
    case 1: return attend_head<1>(head, keys, values, scores);
    case 2: return attend_head<2>(head, keys, values, scores);
    case 3: return attend_head<3>(head, keys, values, scores);
    case 4: return attend_head<4>(head, keys, values, scores);
    case 5: return attend_head<5>(head, keys, values, scores);
    case 6: return attend_head<6>(head, keys, values, scores);
    case 7: return attend_head<7>(head, keys, values, scores);
    case 8: return attend_head<8>(head, keys, values, scores);
#if !defined(__AVX512F__)
    case 10: return attend_head<10>(head, keys, values, scores);
    case 12: return attend_head<12>(head, keys, values, scores);
    case 14: return attend_head<14>(head, keys, values, scores);
    case 16: return attend_head<16>(head, keys, values, scores);
#endif
  }
}

// Turns pairs of x [D], one from each half, by angles whose cosines and sines are given [D / 2].
inline void turn(const float* x, const float* cos, const float* sin, int64_t D, float* to) {
  const int64_t half = D / 2;
  for (int64_t i = 0; i < half; ++i) {
    to[i] = x[i] * cos[i] - x[half + i] * sin[i];
    to[half + i] = x[half + i] * cos[i] + x[i] * sin[i];
  }
}

template <typename S>
void attend_rows(
    const Tensor& q, const Tensor* k, const Tensor* v, const Tensor& keys, const Tensor& values,
    const Tensor& lengths, int64_t window, const float* bias, int64_t bias_heads,
    int64_t bias_length, const float* cos, const float* sin, Tensor& out) {
  const int64_t R = q.size(0), H = q.size(1), D = q.size(2);
  const int64_t row = keys.stride(0), head = keys.stride(1);
  S* const all_keys = static_cast<S*>(keys.data_ptr());
  S* const all_values = static_cast<S*>(values.data_ptr());
  const int64_t* stops = lengths.data_ptr<int64_t>();
  at::parallel_for(0, R * H, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scores, turned(2 * D);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t r = i / H, h = i % H;
      S* own_keys = all_keys + r * row + h * head;
      S* own_values = all_values + r * row + h * head;
      const float* query = q.data_ptr<float>() + r * q.stride(0) + h * q.stride(1);
      if (k != nullptr) {
        const float* key = k->data_ptr<float>() + r * k->stride(0) + h * k->stride(1);
        const float* value = v->data_ptr<float>() + r * v->stride(0) + h * v->stride(1);
        if (cos != nullptr) {
          turn(query, cos + r * D / 2, sin + r * D / 2, D, turned.data());
          turn(key, cos + r * D / 2, sin + r * D / 2, D, turned.data() + D);
          query = turned.data();
          key = turned.data() + D;
        }
        keep(own_keys + (stops[r] - 1) * room<S>(D), key, D);
        keep(own_values + (stops[r] - 1) * room<S>(D), value, D);
      }
      Head one;
      one.q = query;
      one.stop = stops[r];
      one.first = window > 0 ? std::max<int64_t>(0, stops[r] - window) : 0;
      one.bias = bias ? bias + (r * bias_heads + h) * bias_length : nullptr;
      one.out = out.data_ptr<float>() + (r * H + h) * D;
      const int64_t next = std::min(i + 1, R * H - 1);
      one.then = all_keys + next / H * row + next % H * head + one.first * room<S>(D);
      attend_head(D, one, own_keys, own_values, scores);
    }
  });
}

// What the cache keeps of rows of one layer, and which of it they see.
struct Kept {
  const Tensor &keys, &values, &lengths;        // [R, H, L, D] twice, [R]
  int64_t window = 0;                           // how many of the last positions; 0: all
  const std::optional<Tensor>* bias = nullptr;  // [R, H, L], added to the scores
  const std::optional<Tensor>* cos = nullptr;   // [R, D / 2]
  const std::optional<Tensor>* sin = nullptr;
};

// Attends from q [R, H, D] to the first `lengths` [R] of the keys and values; new ones k, v
// [R, H, D] become the last of these before, turned as the queries are. Returns [R, H * D].
Tensor attend_to(const Kept& kept, const Tensor& q, const Tensor* k, const Tensor* v) {
  const int64_t R = q.size(0), H = q.size(1), D = q.size(2);
  const auto has = [](const std::optional<Tensor>* x) { return x != nullptr && x->has_value(); };
  const Tensor &keys = kept.keys, &values = kept.values;
  TORCH_CHECK(q.scalar_type() == at::kFloat && q.stride(2) == 1 && D % LANES == 0 && D <= 128);
  const bool bytes = keys.scalar_type() == at::kChar;
  TORCH_CHECK(keys.stride(2) == (bytes ? room<int8_t>(D) : D) && keys.stride(3) == 1);
  TORCH_CHECK(keys.sizes() == values.sizes() && keys.strides() == values.strides());
  TORCH_CHECK(keys.size(0) == R && keys.size(1) == H);
  TORCH_CHECK(kept.lengths.is_contiguous() && kept.lengths.size(0) == R);
  const float *bias = nullptr, *cos = nullptr, *sin = nullptr;
  int64_t bias_length = 0;
  if (has(kept.bias)) {
    const Tensor& given = **kept.bias;
    TORCH_CHECK(given.is_contiguous() && given.size(0) == R && given.size(1) == H);
    bias = given.data_ptr<float>();
    bias_length = given.size(2);
  }
  if (has(kept.cos)) {
    const Tensor &first = **kept.cos, &second = **kept.sin;
    TORCH_CHECK(first.is_contiguous() && second.is_contiguous() && first.numel() == R * D / 2);
    cos = first.data_ptr<float>();
    sin = second.data_ptr<float>();
  }
  Tensor out = at::empty({R, H * D}, q.options());
  const auto run = bytes                                      ? attend_rows<int8_t>
                   : keys.scalar_type() == at::kBFloat16 ? attend_rows<bfloat>
                                                         : attend_rows<float>;
  run(q, k, v, keys, values, kept.lengths, kept.window, bias, H, bias_length, cos, sin, out);
  return out;
}

// A layer norm or an RMS norm of the rows of x [R, D], D a multiple of 16.
Tensor normed(
    const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, double eps,
    bool rms) {
  const int64_t R = x.size(0), D = x.size(1);
  TORCH_CHECK(x.is_contiguous() && x.scalar_type() == at::kFloat && D % LANES == 0);
  TORCH_CHECK(weight.size(0) == D && weight.scalar_type() == at::kFloat);
  Tensor y = at::empty_like(x);
  const float* by = weight.data_ptr<float>();
  const float* add = bias ? bias->data_ptr<float>() : nullptr;
  for (int64_t r = 0; r < R; ++r) {
    const float* from = x.data_ptr<float>() + r * D;
    float* to = y.data_ptr<float>() + r * D;
    float mean = 0.0f;
    if (!rms) {
      Lanes sums{};
      for (int64_t d = 0; d < D; d += LANES) sums += load(from + d);
      mean = total(sums) / D;
    }
    Lanes squares{};
    for (int64_t d = 0; d < D; d += LANES) {
      const Lanes centred = load(from + d) - mean;
      squares += centred * centred;
    }
    const float scale = 1.0f / std::sqrt(total(squares) / D + static_cast<float>(eps));
    for (int64_t d = 0; d < D; d += LANES) {
      Lanes out = (load(from + d) - mean) * scale * load(by + d);
      store(to + d, add ? out + load(add + d) : out);
    }
  }
  return y;
}

using Parts = c10::List<std::optional<Tensor>>;

// A linear layer of four parts: weight, bias, and for int8 a scale and the sums of the weights.
Tensor apply(const Parts& parts, int64_t first, const Tensor& x, int64_t N) {
  const std::optional<Tensor> weight = parts.get(first), bias = parts.get(first + 1);
#if defined(HAS_INT8)
  const std::optional<Tensor> scale = parts.get(first + 2), sums = parts.get(first + 3);
  if (scale) return linear_int8(x, *weight, *scale, *sums, bias, N);
#endif
  return linear(x, *weight, bias, N);
}

// One step of a block of a transformer, x [R, D]; as networks/transformer.py has it.
// `parts`: for the attention a norm (weight, bias), the input layer and the output layer, then the
// same for the attention to a condition if there is one, then the same for the feed-forward part.
Tensor block(
    const Tensor& input, const Parts& parts, int64_t num_heads, bool gated, bool rms, double eps,
    const Tensor& keys, const Tensor& values, const Tensor& lengths, int64_t window,
    const std::optional<Tensor>& bias, const std::optional<Tensor>& cos,
    const std::optional<Tensor>& sin, const std::optional<Tensor>& condition_keys,
    const std::optional<Tensor>& condition_values, const std::optional<Tensor>& condition_lengths) {
  const Tensor x = input.contiguous();
  const int64_t R = x.size(0), D = x.size(1), H = num_heads;
  const auto norm = [&](const Tensor& from, int64_t first) {
    return normed(from, *parts.get(first), parts.get(first + 1), eps, rms);
  };
  int64_t at = 0;
  const Tensor qkv = apply(parts, at + 2, norm(x, at), 3 * D).view({R, 3, H, D / H});
  const Tensor k = qkv.select(1, 1), v = qkv.select(1, 2);
  Kept own{keys, values, lengths, window, &bias, &cos, &sin};
  Tensor y = apply(parts, at + 6, attend_to(own, qkv.select(1, 0), &k, &v), D).add_(x);
  at += 10;
  if (condition_keys) {
    const Tensor q = apply(parts, at + 2, norm(y, at), D).view({R, H, D / H});
    Kept given{*condition_keys, *condition_values, *condition_lengths};
    y.add_(apply(parts, at + 6, attend_to(given, q, nullptr, nullptr), D));
    at += 10;
  }
  const int64_t hidden = parts.get(at + 6)->size(1) * (parts.get(at + 8) ? 4 : 1);
  Tensor inner = apply(parts, at + 2, norm(y, at), gated ? 2 * hidden : hidden);
  if (gated)
    inner = at::silu(inner.narrow(1, 0, hidden)).mul_(inner.narrow(1, hidden, hidden));
  else
    inner = at::gelu(inner);
  return y.add_(apply(parts, at + 6, inner.contiguous(), D));
}

}  // namespace

TORCH_LIBRARY(lm_audio, library) {
  library.def("linear(Tensor x, Tensor weight, Tensor? bias, int N) -> Tensor", linear);
#if defined(HAS_INT8)
  library.def(
      "linear_int8(Tensor x, Tensor weight, Tensor scale, Tensor weight_sums, Tensor? bias, int N)"
      " -> Tensor",
      linear_int8);
#endif
  library.def(
      "block(Tensor x, Tensor?[] parts, int num_heads, bool gated, bool rms, float eps,"
      " Tensor(a!) keys, Tensor(b!) values, Tensor lengths, int window, Tensor? bias, Tensor? cos,"
      " Tensor? sin, Tensor? condition_keys, Tensor? condition_values, Tensor? condition_lengths)"
      " -> Tensor",
      block);
}
