// The rounds of the Griffin-Lim algorithm for one block of spectra, as phases.py has them.
//
// The spectra of a row are the lanes of vectors, so every transform is one of vectors, without any
// traffic between lanes but where windows overlap. Vectors are those of GCC and Clang, for any CPU.
// A row is computed by one thread in one order: it has the same bits in any company.
//
// Shapes: B rows, J <= 8 spectra, W samples of a window, N = W / 2 bins, without Nyquist.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <cmath>
#include <complex>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace {

using at::Tensor;
using std::int64_t;

constexpr int LANES = 8;
constexpr int OVERLAP = 4;
typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));

struct Complex {
  Lanes re, im;
};

inline Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
inline Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
inline Complex operator*(float a, Complex b) { return {a * b.re, a * b.im}; }
inline Complex conj(Complex a) { return {a.re, -a.im}; }
inline Complex times_i(Complex a) { return {-a.im, a.re}; }
inline Complex times(Complex a, std::complex<float> b) {
  return {a.re * b.real() - a.im * b.imag(), a.re * b.imag() + a.im * b.real()};
}

// The Fourier transform of `radix` numbers, in place.
template <int RADIX>
inline void transform(Complex* x);

template <>
inline void transform<2>(Complex* x) {
  const Complex a = x[0];
  x[0] = a + x[1];
  x[1] = a - x[1];
}

template <>
inline void transform<3>(Complex* x) {
  const Complex sum = x[1] + x[2], turned = 0.866025404f * times_i(x[1] - x[2]);
  const Complex rest = x[0] - 0.5f * sum;
  x[0] = x[0] + sum;
  x[1] = rest - turned;
  x[2] = rest + turned;
}

template <>
inline void transform<4>(Complex* x) {
  const Complex a = x[0] + x[2], b = x[0] - x[2], c = x[1] + x[3], d = times_i(x[1] - x[3]);
  x[0] = a + c;
  x[1] = b - d;
  x[2] = a - c;
  x[3] = b + d;
}

template <>
inline void transform<5>(Complex* x) {
  const Complex a = x[1] + x[4], b = x[2] + x[3];
  const Complex c = times_i(x[1] - x[4]), d = times_i(x[2] - x[3]);
  const Complex first = x[0] + 0.309016994f * a - 0.809016994f * b;
  const Complex second = x[0] - 0.809016994f * a + 0.309016994f * b;
  const Complex e = 0.951056516f * c + 0.587785252f * d;
  const Complex f = 0.587785252f * c - 0.951056516f * d;
  x[0] = x[0] + a + b;
  x[1] = first - e;
  x[2] = second - f;
  x[3] = second + f;
  x[4] = first + e;
}

std::complex<float> unit(double turns) {
  return std::complex<float>(std::polar(1.0, 2 * M_PI * turns));
}

// The Fourier transform of N = 2^a 3^b 5^c numbers: Stockham's algorithm, which needs no sorting.
class Transform {
 public:
  explicit Transform(int64_t N) : size_(N) {
    for (int64_t n = N; n > 1;) {
      const int radix = n % 4 == 0 ? 4 : n % 2 == 0 ? 2 : n % 3 == 0 ? 3 : 5;
      TORCH_CHECK(n % radix == 0, "expected a size of factors 2, 3 and 5");
      for (int64_t p = 0; p < n / radix; ++p)
        for (int k = 1; k < radix; ++k)
          turns_.push_back(unit(-static_cast<double>(p * k) / static_cast<double>(n)));
      radices_.push_back(radix);
      n /= radix;
    }
  }

  // Transforms x; uses `other` of the same size. Returns the one of both that has the result.
  Complex* operator()(Complex* x, Complex* other) const {
    const std::complex<float>* turns = turns_.data();
    int64_t n = size_, stride = 1;
    for (const int radix : radices_) {
      switch (radix) {
        case 2: pass<2>(x, other, n / 2, stride, turns); break;
        case 3: pass<3>(x, other, n / 3, stride, turns); break;
        case 4: pass<4>(x, other, n / 4, stride, turns); break;
        case 5: pass<5>(x, other, n / 5, stride, turns); break;
      }
      n /= radix;
      turns += n * (radix - 1);
      stride *= radix;
      std::swap(x, other);
    }
    return x;
  }

 private:
  template <int RADIX>
  static void pass(
      const Complex* x, Complex* y, int64_t m, int64_t stride, const std::complex<float>* turns) {
    for (int64_t p = 0; p < m; ++p, turns += RADIX - 1)
      for (int64_t q = 0; q < stride; ++q) {
        Complex part[RADIX];
        for (int j = 0; j < RADIX; ++j) part[j] = x[q + stride * (p + j * m)];
        transform<RADIX>(part);
        Complex* to = y + q + stride * RADIX * p;
        to[0] = part[0];
        for (int k = 1; k < RADIX; ++k) to[stride * k] = times(part[k], turns[k - 1]);
      }
  }

  int64_t size_;
  std::vector<int> radices_;
  std::vector<std::complex<float>> turns_;
};

// Lanes moved up by BY (down if negative), with zeros in their place.
template <int BY>
inline Lanes moved(Lanes x) {
  Ints from;
  for (int lane = 0; lane < LANES; ++lane) {
    const int at = lane - BY;
    from[lane] = at >= 0 && at < LANES ? at : LANES;
  }
#if defined(__clang__)
  Lanes y;
  for (int lane = 0; lane < LANES; ++lane) y[lane] = from[lane] < LANES ? x[from[lane]] : 0.0f;
  return y;
#else
  return __builtin_shuffle(x, Lanes{}, from);
#endif
}

// What all rows share.
struct Settings {
  int64_t W, hop;
  const float* window;
  Transform transform;
  std::vector<std::complex<float>> turns;  // exp(-2 pi i k / W)

  Settings(int64_t W, const float* window)
      : W(W), hop(W / OVERLAP), window(window), transform(W / 2) {
    for (int64_t k = 0; k < W / 2; ++k) turns.push_back(unit(-static_cast<double>(k) / W));
  }
};

// One row's block.
class Block {
 public:
  explicit Block(const Settings& shared)
      : shared_(shared), first_(shared.W / 2), second_(shared.W / 2), before_(shared.W / 2),
        phases_(shared.W / 2), magnitudes_(shared.W / 2), past_(shared.W) {}

  // `past` [OVERLAP - 1, W], the windows before; magnitudes [J, N] and phases [J, N].
  void start(
      const float* past, const float* magnitudes, const std::complex<float>* phases, int64_t J) {
    const int64_t N = shared_.W / 2, hop = shared_.hop;
    for (int64_t k = 0; k < N; ++k)
      for (int64_t j = 0; j < LANES; ++j) {
        magnitudes_[k][j] = j < J ? magnitudes[j * N + k] : 0.0f;
        phases_[k].re[j] = j < J ? phases[j * N + k].real() : 0.0f;
        phases_[k].im[j] = j < J ? phases[j * N + k].imag() : 0.0f;
        before_[k].re[j] = before_[k].im[j] = 0.0f;
      }
    // What the windows before add to each window; of spectrum j, quarter i, from j + i - part.
    for (int64_t i = 0; i < OVERLAP; ++i)
      for (int64_t t = 0; t < hop; ++t)
        for (int64_t j = 0; j < LANES; ++j) {
          float total = 0.0f;
          for (int64_t part = 0; part < OVERLAP; ++part) {
            const int64_t at = j + i - part + OVERLAP - 1;
            if (at >= 0 && at < OVERLAP - 1) total += past[at * shared_.W + part * hop + t];
          }
          past_[i * hop + t][j] = total;
        }
  }

  void round(float momentum) {
    Complex* time = to_time();
    overlap(reinterpret_cast<Lanes*>(time));
    Complex* const spare = time == first_.data() ? second_.data() : first_.data();
    const Complex* z = shared_.transform(time, spare);
    const int64_t N = shared_.W / 2;
    for (int64_t k = 0; k < N; ++k) {
      const Complex a = z[k], b = conj(z[k == 0 ? 0 : N - k]);
      const Complex odd = times(times_i(a - b), shared_.turns[k]);
      const Complex now = 0.5f * (a + b - odd);
      const Complex moved = now - momentum * before_[k];
      before_[k] = now;
      Lanes size = moved.re * moved.re + moved.im * moved.im;
      for (int lane = 0; lane < LANES; ++lane) size[lane] = std::sqrt(size[lane]);
      size = size > 1e-9f ? size : Lanes{} + 1e-9f;
      phases_[k] = {moved.re / size, moved.im / size};
    }
  }

  void result(std::complex<float>* phases, int64_t J) const {
    const int64_t N = shared_.W / 2;
    for (int64_t j = 0; j < J; ++j)
      for (int64_t k = 0; k < N; ++k) phases[j * N + k] = {phases_[k].re[j], phases_[k].im[j]};
  }

 private:
  // The windows of the spectra: of the samples of each, two by two as complex numbers.
  Complex* to_time() {
    const int64_t N = shared_.W / 2;
    Complex* x = first_.data();
    const auto spectrum = [&](int64_t k) {
      return Complex{magnitudes_[k] * phases_[k].re, magnitudes_[k] * phases_[k].im};
    };
    for (int64_t k = 0; k < N; ++k) {
      Complex a = spectrum(k), b{};
      if (k == 0) a.im = Lanes{};  // of a real signal
      else b = conj(spectrum(N - k));
      const Complex z = a + b + times_i(times(a - b, std::conj(shared_.turns[k])));
      x[k] = {z.im, z.re};  // the inverse transform is the forward one of swapped parts
    }
    Complex* y = shared_.transform(x, second_.data());
    for (int64_t k = 0; k < N; ++k) std::swap(y[k].re, y[k].im);
    return y;
  }

  // Windows [W] to the windows of their sum, in place.
  void overlap(Lanes* x) const {
    const int64_t hop = shared_.hop;
    const float scale = static_cast<float>(hop) / shared_.W;
    for (int64_t t = 0; t < hop; ++t) {
      Lanes in[OVERLAP];
      for (int i = 0; i < OVERLAP; ++i) {
        const int64_t at = i * hop + t;
        in[i] = x[at] * (shared_.window[at] * scale);
      }
      Lanes out[OVERLAP];
      out[0] = in[0] + moved<1>(in[1]) + moved<2>(in[2]) + moved<3>(in[3]);
      out[1] = moved<-1>(in[0]) + in[1] + moved<1>(in[2]) + moved<2>(in[3]);
      out[2] = moved<-2>(in[0]) + moved<-1>(in[1]) + in[2] + moved<1>(in[3]);
      out[3] = moved<-3>(in[0]) + moved<-2>(in[1]) + moved<-1>(in[2]) + in[3];
      for (int i = 0; i < OVERLAP; ++i) {
        const int64_t at = i * hop + t;
        x[at] = (out[i] + past_[at]) * shared_.window[at];
      }
    }
  }

  const Settings& shared_;
  std::vector<Complex> first_, second_, before_, phases_;
  std::vector<Lanes> magnitudes_, past_;
};

// Phases [B, J, N] after these rounds. `past`: [B, OVERLAP - 1, W], the windows before.
Tensor settle(
    const Tensor& past, const Tensor& magnitudes, const Tensor& phases, const Tensor& window,
    int64_t rounds, double momentum) {
  const int64_t B = phases.size(0), J = phases.size(1), N = phases.size(2), W = 2 * N;
  TORCH_CHECK(J <= LANES && W % OVERLAP == 0 && window.size(0) == W && past.size(2) == W);
  for (const Tensor* x : {&past, &magnitudes, &window})
    TORCH_CHECK(x->is_contiguous() && x->scalar_type() == at::kFloat);
  TORCH_CHECK(phases.is_contiguous() && phases.scalar_type() == at::kComplexFloat);
  Tensor out = at::empty_like(phases);
  const auto* from = reinterpret_cast<const std::complex<float>*>(phases.data_ptr());
  auto* to = reinterpret_cast<std::complex<float>*>(out.data_ptr());
  const Settings shared(W, window.data_ptr<float>());
  at::parallel_for(0, B, 1, [&](int64_t begin, int64_t end) {
    Block block(shared);
    for (int64_t b = begin; b < end; ++b) {
      block.start(
          past.data_ptr<float>() + b * (OVERLAP - 1) * W, magnitudes.data_ptr<float>() + b * J * N,
          from + b * J * N, J);
      for (int64_t i = 0; i < rounds; ++i) block.round(static_cast<float>(momentum));
      block.result(to + b * J * N, J);
    }
  });
  return out;
}

}  // namespace

TORCH_LIBRARY(lm_audio_phases, library) {
  library.def(
      "settle(Tensor past, Tensor magnitudes, Tensor phases, Tensor window, int rounds, "
      "float momentum) -> Tensor",
      settle);
}
