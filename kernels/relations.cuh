// Losses between the relations of a batch, and their gradients, in double: of embeddings that are nearly equal, squares of
// their differences keep their digits. Entries are added up for pairs alone; an angle is that of three distances, by the law
// of cosines: cos pqr = (d²(p,q) + d²(q,r) − d²(p,r)) / (2 · d(p,q) · d(q,r)).

// Distances between N samples: their squares, the inverses of their roots (0 for 0), and of each row the sum of the
// distances and how many are not 0.
template <uint N> struct Distances { double square[N * N], inverse[N * N], sums[2 * N]; };

// The sum over a warp, the same in all lanes.
__device__ __forceinline__ double warp_total(double x) {
    #pragma unroll
    for (int d = 16; d > 0; d >>= 1) x += __shfl_xor_sync(0xffffffffu, x, d);
    return x;
}

// A warp for each pair of rows of LEN entries. Not a number is no 0, and stays.
template <uint N, uint LEN> __device__ void tabulate(const float* x, Distances<N>* d, uint t, uint n) {
    for (uint pair = t / 32; pair < N * N; pair += n / 32) {
        const uint p = pair / N, q = pair % N;
        if (q > p) continue;
        double square = 0.;
        for (uint c = t & 31; c < LEN; c += 32) {
            const double apart = (double)x[p * LEN + c] - (double)x[q * LEN + c];
            square = fma(apart, apart, square);
        }
        square = warp_total(square);
        if ((t & 31) == 0) {
            const double inverse = square == 0. ? 0. : 1. / sqrt(square);
            d->square[p * N + q] = square;
            d->inverse[p * N + q] = inverse;
            if (p != q) {
                d->square[q * N + p] = square;
                d->inverse[q * N + p] = inverse;
            }
        }
    }
}

template <uint N> __device__ void sum_rows(Distances<N>* d, uint t, uint n) {
    for (uint p = t / 32; p < N; p += n / 32) {
        double total = 0., apart = 0.;
        for (uint q = t & 31; q < N; q += 32) {
            const double square = d->square[p * N + q];
            total += square * d->inverse[p * N + q];
            apart += square == 0. ? 0. : 1.;
        }
        total = warp_total(total);
        apart = warp_total(apart);
        if ((t & 31) == 0) {
            d->sums[2 * p] = total;
            d->sums[2 * p + 1] = apart;
        }
    }
}

// One by the mean of the distances that are not 0, and how many these are; where all are 0, both are 0.
struct Scale { double inverse, count; };

// Of whole warps.
template <uint N> __device__ __forceinline__ Scale scale_of(const Distances<N>* d, uint t) {
    double total = 0., apart = 0.;
    for (uint p = t & 31; p < N; p += 32) {
        total += d->sums[2 * p];
        apart += d->sums[2 * p + 1];
    }
    total = warp_total(total);
    Scale s;
    s.count = warp_total(apart);
    s.inverse = s.count == 0. ? 0. : s.count / total;
    return s;
}

// x²/2 near 0, |x| − ½ from 1 on; and its derivative, where not a number stays so.
__device__ __forceinline__ double huber(double x) {
    x = fabs(x);
    return x < 1. ? 0.5 * x * x : x - 0.5;
}
__device__ __forceinline__ double huber_derivative(double x) { return x > 1. ? 1. : x < -1. ? -1. : x; }

template <uint N> __device__ __forceinline__ double distance(const Distances<N>* d, uint e) {
    return d->square[e] * d->inverse[e];
}

// terms[p] = Σ h(d(a)/m(a) − d(b)/m(b)), a warp for each row.
template <uint N>
__device__ void distance_terms(const Distances<N>* a, const Distances<N>* b, double* terms, uint t, uint n) {
    const double of_a = scale_of(a, t).inverse, of_b = scale_of(b, t).inverse;
    for (uint p = t / 32; p < N; p += n / 32) {
        double sum = 0.;
        for (uint e = p * N + (t & 31); e < p * N + N; e += 32) {
            sum += huber(distance(a, e) * of_a - distance(b, e) * of_b);
        }
        sum = warp_total(sum);
        if ((t & 31) == 0) terms[p] = sum;
    }
}

// *out = factor · the sum of the terms, by the first warp.
template <uint COUNT> __device__ void sum_terms(const double* terms, float* out, double factor, uint t, uint n) {
    for (uint o = t / 32; o < 1; o += n / 32) {
        double sum = 0.;
        for (uint i = t & 31; i < COUNT; i += 32) sum += terms[i];
        sum = warp_total(sum);
        if ((t & 31) == 0) *out = (float)(sum * factor);
    }
}

// slopes[p,q] = g/m and along[p] = Σ g·d with g = h′, a warp for each row.
template <uint N>
__device__ void distance_slopes(
    const Distances<N>* a, const Distances<N>* b, double* slopes, double* along, uint t, uint n
) {
    const double of_a = scale_of(a, t).inverse, of_b = scale_of(b, t).inverse;
    for (uint p = t / 32; p < N; p += n / 32) {
        double sum = 0.;
        for (uint e = p * N + (t & 31); e < p * N + N; e += 32) {
            const double slope = huber_derivative(distance(a, e) * of_a - distance(b, e) * of_b) * of_a;
            slopes[e] = slope;
            sum += slope * distance(a, e);
        }
        sum = warp_total(sum);
        if ((t & 31) == 0) along[p] = sum;
    }
}

// dx(p) = factor · dl · Σ over q of (g/m − Σ g·d / (m² · count)) / d · (p − q), a thread for each entry.
template <uint N, uint LEN>
__device__ void distance_pull(
    const float* x, const Distances<N>* a, const double* slopes, const double* along, const float* dl, float* dx,
    double factor, uint t, uint n
) {
    const Scale scale = scale_of(a, t);
    double even = 0.;
    for (uint p = t & 31; p < N; p += 32) even += along[p];
    even = warp_total(even) * scale.inverse / (scale.count > 1. ? scale.count : 1.);
    for (uint e = t; e < N * LEN; e += n) {
        const uint row = e / LEN * N, c = e % LEN;
        const double here = (double)x[e];
        double sum = 0.;
        for (uint q = 0; q < N; q++) {
            const double slope = (slopes[row + q] - even) * a->inverse[row + q];
            sum = fma(slope, here - (double)x[q * LEN + c], sum);
        }
        dx[e] = (float)(sum * factor * (double)*dl);
    }
}

// The cosine of an angle between sides of squares s and t, whose inverse lengths have that half product; u is the square of
// the side across.
__device__ __forceinline__ double cosine(double s, double t, double u, double half) { return (s + t - u) * half; }

// terms[at, slice] = Σ h of the difference of cosines over the angles at a sample, from every SLICES-th sample to all up to
// it: an angle and the same from its other side are equal. A warp for each.
template <uint N, uint SLICES>
__device__ void angle_terms(const Distances<N>* a, const Distances<N>* b, double* terms, uint t, uint n) {
    for (uint item = t / 32; item < N * SLICES; item += n / 32) {
        const uint at = item / SLICES * N;
        double sum = 0.;
        for (uint p = item % SLICES; p < N; p += SLICES) {
            const double of_a = a->square[at + p], half_a = 0.5 * a->inverse[at + p];
            const double of_b = b->square[at + p], half_b = 0.5 * b->inverse[at + p];
            for (uint q = t & 31; q <= p; q += 32) {
                const double first =
                    cosine(of_a, a->square[at + q], a->square[p * N + q], half_a * a->inverse[at + q]);
                const double second =
                    cosine(of_b, b->square[at + q], b->square[p * N + q], half_b * b->inverse[at + q]);
                sum = fma(q == p ? 1. : 2., huber(first - second), sum);
            }
        }
        sum = warp_total(sum);
        if ((t & 31) == 0) terms[item] = sum;
    }
}

// A triangle of samples p, q and r: squared sides and their inverses.
struct Triangle {
    double pq, qr, pr, by_pq, by_qr, by_pr;
    __device__ __forceinline__ double at_p() const { return cosine(pq, pr, qr, 0.5 * by_pq * by_pr); }
    __device__ __forceinline__ double at_q() const { return cosine(pq, qr, pr, 0.5 * by_pq * by_qr); }
    __device__ __forceinline__ double at_r() const { return cosine(pr, qr, pq, 0.5 * by_pr * by_qr); }
};

template <uint N>
__device__ __forceinline__ Triangle triangle_of(const Distances<N>* d, uint p, uint q, uint r) {
    Triangle s = {
        d->square[p * N + q],  d->square[r * N + q],  d->square[p * N + r],
        d->inverse[p * N + q], d->inverse[r * N + q], d->inverse[p * N + r],
    };
    return s;
}

// slopes[p,q], the derivative with respect to the square of a distance of the first batch: with g = h′, i = 1/d, Σ over r of
// i(p,q) · (g(pqr) · (i(q,r) − cos pqr · i(p,q)) + g(qpr) · (i(p,r) − cos qpr · i(p,q))) − g(prq) · i(p,r) · i(q,r).
// A thread for each pair; where two of the three are one sample it is 0, as 1/0 counts as 0.
template <uint N>
__device__ void angle_slopes(const Distances<N>* a, const Distances<N>* b, double* slopes, uint t, uint n) {
    for (uint e = t; e < N * N; e += n) {
        const uint p = e / N, q = e % N;
        double sum = 0.;
        for (uint r = 0; r < N; r++) {
            const Triangle x = triangle_of(a, p, q, r), y = triangle_of(b, p, q, r);
            const double cos_p = x.at_p(), cos_q = x.at_q();
            const double at_p = huber_derivative(cos_p - y.at_p());
            const double at_q = huber_derivative(cos_q - y.at_q());
            const double at_r = huber_derivative(x.at_r() - y.at_r());
            sum += x.by_pq * (at_q * (x.by_qr - cos_q * x.by_pq) + at_p * (x.by_pr - cos_p * x.by_pq));
            sum -= at_r * x.by_pr * x.by_qr;
        }
        slopes[e] = sum;
    }
}

// dx(p) = factor · dl · Σ over q of slope(p,q) · (p − q), a thread for each entry.
template <uint N, uint LEN>
__device__ void angle_pull(
    const float* x, const double* slopes, const float* dl, float* dx, double factor, uint t, uint n
) {
    for (uint e = t; e < N * LEN; e += n) {
        const uint row = e / LEN * N, c = e % LEN;
        const double here = (double)x[e];
        double sum = 0.;
        for (uint q = 0; q < N; q++) sum = fma(slopes[row + q], here - (double)x[q * LEN + c], sum);
        dx[e] = (float)(sum * factor * (double)*dl);
    }
}
