// Operators on rows of LEN entries: a sample, or the logits of one. A team of threads takes a row; `t` and `n` are the
// number of a thread in its range and of the threads of the range.

#define EACH_ROW(ROWS) for (uint row = t / TEAM; row < ROWS; row += n / TEAM)
#define EACH_ENTRY for (uint i = t % TEAM; i < LEN; i += TEAM)

// A row at a temperature: its largest entry, and Σ exp(factor · x − top).
struct Shift { float top, sum; };

template <int TEAM, uint LEN>
__device__ __forceinline__ Shift shift_of(const float* x, float factor, uint t, float* shared) {
    float top = -INFINITY_F;
    EACH_ENTRY top = max_nan(top, x[i]);
    top = factor * team_max<TEAM>(top, shared);
    Sum s = no_sum();
    EACH_ENTRY add(s, expf(fmaf(factor, x[i], -top)));
    Shift r = { top, team_total<TEAM>(s, shared) };
    return r;
}

template <int TEAM, uint ROWS, uint LEN>
__device__ void softmax_rows(const float* x, float* y, uint t, uint n, float* shared) {
    EACH_ROW(ROWS) {
        const Shift s = shift_of<TEAM, LEN>(x + row * LEN, 1.f, t, shared);
        EACH_ENTRY y[row * LEN + i] = expf(x[row * LEN + i] - s.top) / s.sum;
    }
}

template <int TEAM, uint ROWS, uint LEN>
__device__ void log_softmax_rows(const float* x, float* y, uint t, uint n, float* shared) {
    EACH_ROW(ROWS) {
        const Shift s = shift_of<TEAM, LEN>(x + row * LEN, 1.f, t, shared);
        const float log = logf(s.sum);
        EACH_ENTRY y[row * LEN + i] = (x[row * LEN + i] - s.top) - log;
    }
}

// dx = y · (dy − Σ y·dy)
template <int TEAM, uint ROWS, uint LEN>
__device__ void softmax_grad_rows(const float* y, const float* dy, float* dx, uint t, uint n, float* shared) {
    EACH_ROW(ROWS) {
        Sum s = no_sum();
        EACH_ENTRY add(s, y[row * LEN + i] * dy[row * LEN + i]);
        const float along = team_total<TEAM>(s, shared);
        EACH_ENTRY dx[row * LEN + i] = y[row * LEN + i] * (dy[row * LEN + i] - along);
    }
}

// dx = dy − eʸ · Σ dy
template <int TEAM, uint ROWS, uint LEN>
__device__ void log_softmax_grad_rows(const float* y, const float* dy, float* dx, uint t, uint n, float* shared) {
    EACH_ROW(ROWS) {
        Sum s = no_sum();
        EACH_ENTRY add(s, dy[row * LEN + i]);
        const float all = team_total<TEAM>(s, shared);
        EACH_ENTRY dx[row * LEN + i] = fmaf(-expf(y[row * LEN + i]), all, dy[row * LEN + i]);
    }
}

// Mean and 1 / √(unbiased variance + eps) of a sample.
struct Moments { float mean, inverse; };

template <int TEAM, uint LEN>
__device__ __forceinline__ Moments moments_of(const float* x, float eps, uint t, float* shared) {
    Sum s = no_sum();
    EACH_ENTRY add(s, x[i]);
    const float mean = team_total<TEAM>(s, shared) / (float)LEN;
    Sum squares = no_sum();
    EACH_ENTRY { const float d = x[i] - mean; add(squares, d * d); }
    const float var = team_total<TEAM>(squares, shared) / (float)(LEN - 1);
    Moments m = { mean, 1.f / sqrtf(var + eps) };
    return m;
}

template <int TEAM, uint ROWS, uint LEN>
__device__ void standardize_rows(const float* x, float* y, float eps, uint t, uint n, float* shared) {
    EACH_ROW(ROWS) {
        const Moments m = moments_of<TEAM, LEN>(x + row * LEN, eps, t, shared);
        EACH_ENTRY y[row * LEN + i] = (x[row * LEN + i] - m.mean) * m.inverse;
    }
}

// dx = (dy − mean dy − y · Σ dy·y / (LEN − 1)) / s
template <int TEAM, uint ROWS, uint LEN>
__device__ void standardize_grad_rows(
    const float* x, const float* dy, float* dx, float eps, uint t, uint n, float* shared
) {
    EACH_ROW(ROWS) {
        const Moments m = moments_of<TEAM, LEN>(x + row * LEN, eps, t, shared);
        Sum s = no_sum(), products = no_sum();
        EACH_ENTRY {
            add(s, dy[row * LEN + i]);
            add(products, (x[row * LEN + i] - m.mean) * dy[row * LEN + i]);
        }
        const float mean_dy = team_total<TEAM>(s, shared) / (float)LEN;
        const float along = team_total<TEAM>(products, shared) * m.inverse / (float)(LEN - 1);
        EACH_ENTRY {
            const float y = (x[row * LEN + i] - m.mean) * m.inverse;
            dx[row * LEN + i] = (dy[row * LEN + i] - mean_dy - y * along) * m.inverse;
        }
    }
}

template <int TEAM, uint ROWS, uint LEN>
__device__ void l2_normalize_rows(const float* x, float* y, float eps, uint t, uint n, float* shared) {
    EACH_ROW(ROWS) {
        Sum s = no_sum();
        EACH_ENTRY add(s, x[row * LEN + i] * x[row * LEN + i]);
        const float norm = sqrtf(team_total<TEAM>(s, shared));
        const float least = norm < eps ? eps : norm;
        EACH_ENTRY y[row * LEN + i] = x[row * LEN + i] / least;
    }
}

// dx = (dy − x · Σ x·dy / ‖x‖²) / ‖x‖; below the least norm dx = dy / eps
template <int TEAM, uint ROWS, uint LEN>
__device__ void l2_normalize_grad_rows(
    const float* x, const float* dy, float* dx, float eps, uint t, uint n, float* shared
) {
    EACH_ROW(ROWS) {
        Sum s = no_sum(), products = no_sum();
        EACH_ENTRY {
            add(s, x[row * LEN + i] * x[row * LEN + i]);
            add(products, x[row * LEN + i] * dy[row * LEN + i]);
        }
        const float square = team_total<TEAM>(s, shared);
        const float norm = sqrtf(square);
        const bool below = norm <= eps;
        const float product = team_total<TEAM>(products, shared);
        const float along = below ? 0.f : product / square, scale = 1.f / (below ? eps : norm);
        EACH_ENTRY dx[row * LEN + i] = fmaf(-x[row * LEN + i], along, dy[row * LEN + i]) * scale;
    }
}
