/* One training step of a one-block transformer on sums of fixed layout: forward, backward,
 * gradient clipping and AdamW, for LANES sums at a time.
 *
 * Compiled by kernel.py, which writes in front of this file the sizes (B sums, T tokens
 * read, FIRST query, V vocabulary, D d_model, H heads, W head width, F hidden units, P leaf
 * entries), what the block has (HAS_…), the type `real`, the arrays of the matrices (M_…) and of
 * their gradients (G_…), and two functions: matrices() computes the M_ from theta[P],
 * leaf_gradients() adds the G_ up into grad[P].
 *
 * Everything is separable in the query: each is run forward to its loss and back at once,
 * so that only keys, values and their gradients are kept for all T tokens. Arrays of LANES
 * hold one number of LANES sums; gradients of matrices are summed over lanes at the end.
 */

typedef real vec __attribute__((vector_size(LANES * sizeof(real))));
typedef whole ivec __attribute__((vector_size(LANES * sizeof(real))));
typedef unsigned char bytes __attribute__((vector_size(LANES), aligned(1)));
#define EACH_LANE for (int l = 0; l < LANES; l++)
#define ROUNDER ((real)(SINGLE ? 12582912.0 : 6755399441055744.0)) /* 1.5 * 2^mantissa bits */

static inline vec all(real x) { return (vec){0} + x; }
/* a where the mask is set, b elsewhere */
static inline vec pick(ivec mask, vec a, vec b) {
    return (vec)(((ivec)a & mask) | ((ivec)b & ~mask));
}
static inline vec larger(vec a, vec b) { return pick(a > b, a, b); }
static inline ivec ids(const unsigned char *at) {
    return __builtin_convertvector(*(const bytes *)at, ivec);
}
static inline vec roots(vec x) { vec y; EACH_LANE y[l] = sqrt_(x[l]); return y; }

#if SINGLE
/* exp to 2 units in the last place: x = n log 2 + r, |r| <= log(2) / 2, a polynomial in r */
static inline vec vexp(vec x) {
    x = larger(x, all(-87.0f));
    x = -larger(-x, all(-88.0f));
    vec n = (x * 1.44269504088896341f + ROUNDER) - ROUNDER;
    vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vec p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (vec)((__builtin_convertvector(n, ivec) + 127) << 23);
}

/* erf to 1.2e-7: erfc(|x|) = t exp(-x^2 + Q(t)), t = 1 / (1 + |x| / 2) (Chebyshev fit) */
static inline vec verf(vec x) {
    vec a = larger(x, -x), t = 1 / (1 + a / 2), q = all(0.17087277f);
    q = q * t - 0.82215223f;
    q = q * t + 1.48851587f;
    q = q * t - 1.13520398f;
    q = q * t + 0.27886807f;
    q = q * t - 0.18628806f;
    q = q * t + 0.09678418f;
    q = q * t + 0.37409196f;
    q = q * t + 1.00002368f;
    q = q * t - 1.26551223f;
    vec rest = t * vexp(q - a * a);
    return pick(x < 0, rest - 1, 1 - rest);
}
#else
static inline vec vexp(vec x) { vec y; EACH_LANE y[l] = exp(x[l]); return y; }
static inline vec verf(vec x) { vec y; EACH_LANE y[l] = erf(x[l]); return y; }
#endif

/* the activation and its slope */
static inline vec active(vec x, vec *slope) {
    vec y;
#if ACTIVATION == RELU
    y = pick(x > 0, x, all(0));
    *slope = pick(x > 0, all(1), all(0));
#elif ACTIVATION == SILU
    vec s = 1 / (1 + vexp(-x));
    y = x * s;
    *slope = s * (1 + x * (1 - s));
#elif ACTIVATION == GELU
    vec c = (1 + verf(x * (real)0.70710678118654752440)) / 2;
    y = x * c;
    *slope = c + x * vexp(-x * x / 2) * (real)0.39894228040143267794;
#else
    y = 1 - 2 / (vexp(2 * x) + 1);
    *slope = 1 - y * y;
#endif
    return y;
}

/* ------------------------------------------------------------------ norms */

/* h = scale of x (less its mean), the factor kept in `rate`; then weight and bias */
static inline void norm(const vec *x, vec *hat, vec *rate, vec *h, const real *w, const real *b) {
#if NORM == 0
    for (int d = 0; d < D; d++) hat[d] = h[d] = x[d];
    (void)rate; (void)w; (void)b;
#else
    vec mean = all(0), square = all(0);
#if NORM == 2
    for (int d = 0; d < D; d++) mean += x[d];
    mean = mean / (real)D;
#endif
    for (int d = 0; d < D; d++) { hat[d] = x[d] - mean; square += hat[d] * hat[d]; }
    *rate = 1 / roots(square / (real)D + (real)EPSILON);
    for (int d = 0; d < D; d++) {
        hat[d] *= *rate;
        h[d] = w ? hat[d] * w[d] : hat[d];
        if (b) h[d] += b[d];
    }
#endif
}

/* dx += the gradient of norm, and its weight's and bias's (lanes kept apart) */
static inline void norm_back(const vec *hat, vec rate, const vec *dh, const real *w, vec *gw,
                             vec *gb, vec *dx) {
#if NORM == 0
    for (int d = 0; d < D; d++) dx[d] += dh[d];
    (void)hat; (void)rate; (void)w; (void)gw; (void)gb;
#else
    vec g[D], along = all(0), mean = all(0);
    for (int d = 0; d < D; d++) {
        if (gw) gw[d] += dh[d] * hat[d];
        if (gb) gb[d] += dh[d];
        g[d] = w ? dh[d] * w[d] : dh[d];
        along += g[d] * hat[d];
        mean += g[d];
    }
    along = along / (real)D;
    mean = NORM == 2 ? mean / (real)D : all(0);
    for (int d = 0; d < D; d++) dx[d] += rate * (g[d] - mean - hat[d] * along);
#endif
}

/* ------------------------------------------------------------------ matrices */

static inline void apply(vec *y, const real *m, const real *bias, const vec *x, int n, int k) {
    for (int i = 0; i < n; i++) {
        vec sum = bias ? all(bias[i]) : all(0);
        for (int j = 0; j < k; j++) sum += m[i * k + j] * x[j];
        y[i] = sum;
    }
}

/* dx += M^T dy; the gradients of M and of the bias */
static inline void apply_back(vec *dx, vec *gm, vec *gb, const real *m, const vec *dy,
                              const vec *x, int n, int k) {
    for (int i = 0; i < n; i++) {
        if (gb) gb[i] += dy[i];
        for (int j = 0; j < k; j++) {
            gm[i * k + j] += dy[i] * x[j];
            dx[j] += m[i * k + j] * dy[i];
        }
    }
}

#define E_ (H * W)
static vec S_embed[V * D], S_position[T * D], S_q[E_ * D], S_k[E_ * D], S_v[E_ * D];
static vec S_out[D * E_], S_up[F * D], S_down[D * F], S_gate[F * D], S_head[V * D];
static vec S_qb[E_], S_kb[E_], S_vb[E_], S_ob[D], S_ub[F], S_db[D], S_gb[F], S_hb[V];
static vec S_n1w[D], S_n1b[D], S_n2w[D], S_n2b[D], S_nfw[D], S_nfb[D];

static vec x[T][D], hat[T][D], h[T][D], k[T][E_], v[T][E_], dk[T][E_], dv[T][E_];
static vec dx[T][D], dh[T][D], rate[T];

/* ------------------------------------------------------------------ one query */

/* loss of LANES sums at query t, and everything back to keys, values, dh and dx */
static vec query(int t, const unsigned char *target) {
    vec q[E_], read[E_], pattern[H][T], total[H];
    apply(q, M_q, M_qb, h[t], E_, D);
    for (int e = 0; e < E_; e++) q[e] *= (real)SCALE;
    for (int a = 0; a < H; a++) {
        vec top = all((real)-1e30);
        for (int s = 0; s <= t; s++) {
            if (!seen[a][t][s]) continue;
            vec score = all(0);
            for (int e = 0; e < W; e++) score += q[a * W + e] * k[s][a * W + e];
            pattern[a][s] = score;
            top = larger(score, top);
        }
        total[a] = all(0);
        for (int e = 0; e < W; e++) read[a * W + e] = all(0);
        for (int s = 0; s <= t; s++) {
            if (!seen[a][t][s]) continue;
            vec p = vexp(pattern[a][s] - top);
            pattern[a][s] = p;
            total[a] += p;
            for (int e = 0; e < W; e++) read[a * W + e] += p * v[s][a * W + e];
        }
        vec inverse = blind[a][t] ? all(0) : 1 / total[a];
        for (int s = 0; s <= t; s++) if (seen[a][t][s]) pattern[a][s] *= inverse;
        for (int e = 0; e < W; e++) read[a * W + e] *= inverse;
    }
    vec written[D], mid[D], last[D], hat2[D], h2[D], rate2 = all(0), hatf[D], hf[D], ratef = all(0);
    apply(written, M_out, M_ob, read, D, E_);
    for (int d = 0; d < D; d++) last[d] = mid[d] = x[t][d] + written[d];
#if HAS_FFN
    vec rows[F], gates[F], slope[F], bent[F], hidden[F], added[D];
    norm(mid, hat2, &rate2, h2, M_n2w, M_n2b);
    apply(rows, M_up, M_ub, h2, F, D);
    for (int f = 0; f < F; f++) hidden[f] = bent[f] = active(rows[f], &slope[f]);
#if HAS_GATE
    apply(gates, M_gate, M_gb, h2, F, D);
    for (int f = 0; f < F; f++) hidden[f] = bent[f] * gates[f];
#endif
    apply(added, M_down, M_db, hidden, D, F);
    for (int d = 0; d < D; d++) last[d] += added[d];
#endif
    norm(last, hatf, &ratef, hf, M_nfw, M_nfb);

    /* loss = log sum exp(logits) - logits[target]; dlogits = softmax - 1 at the target */
    vec logits[V], top = all((real)-1e30), sum = all(0), loss;
    apply(logits, M_head, M_hb, hf, V, D);
    for (int c = 0; c < V; c++) top = larger(logits[c], top);
    vec wanted = all(0);
    ivec right = ids(target);
    for (int c = 0; c < V; c++) {
        vec shifted = logits[c] - top;
        wanted += pick(right == c, shifted, all(0));
        logits[c] = vexp(shifted);
        sum += logits[c];
    }
    EACH_LANE loss[l] = log_(sum[l]) - wanted[l];
    vec share = (real)(1.0 / ((double)B * (T - FIRST))) / sum;
    for (int c = 0; c < V; c++) {
        logits[c] *= share;
        logits[c] -= pick(right == c, all((real)(1.0 / ((double)B * (T - FIRST)))), all(0));
    }

    vec back[D], turn[D];
    for (int d = 0; d < D; d++) back[d] = turn[d] = all(0);
    apply_back(turn, S_head, M_hb ? S_hb : 0, M_head, logits, hf, V, D);
    norm_back(hatf, ratef, turn, M_nfw, M_nfw ? S_nfw : 0, M_nfb ? S_nfb : 0, back);
#if HAS_FFN
    vec dhidden[F];
    for (int f = 0; f < F; f++) dhidden[f] = all(0);
    for (int d = 0; d < D; d++) turn[d] = all(0);
    apply_back(dhidden, S_down, M_db ? S_db : 0, M_down, back, hidden, D, F);
#if HAS_GATE
    vec dgates[F];
    for (int f = 0; f < F; f++) {
        dgates[f] = dhidden[f] * bent[f];
        dhidden[f] *= gates[f];
    }
    apply_back(turn, S_gate, M_gb ? S_gb : 0, M_gate, dgates, h2, F, D);
#endif
    for (int f = 0; f < F; f++) dhidden[f] *= slope[f];
    apply_back(turn, S_up, M_ub ? S_ub : 0, M_up, dhidden, h2, F, D);
    norm_back(hat2, rate2, turn, M_n2w, M_n2w ? S_n2w : 0, M_n2b ? S_n2b : 0, back);
#endif
    for (int d = 0; d < D; d++) dx[t][d] += back[d];
    vec dread[E_], dq[E_];
    for (int e = 0; e < E_; e++) dread[e] = dq[e] = all(0);
    apply_back(dread, S_out, M_ob ? S_ob : 0, M_out, back, read, D, E_);
    for (int a = 0; a < H; a++) {
        if (blind[a][t]) continue;
        vec along = all(0);
        for (int e = 0; e < W; e++) along += dread[a * W + e] * read[a * W + e];
        for (int s = 0; s <= t; s++) {
            if (!seen[a][t][s]) continue;
            vec p = pattern[a][s], dp = -along;
            for (int e = 0; e < W; e++) {
                dp += dread[a * W + e] * v[s][a * W + e];
                dv[s][a * W + e] += p * dread[a * W + e];
            }
            dp *= p;
            for (int e = 0; e < W; e++) {
                dq[a * W + e] += dp * k[s][a * W + e];
                dk[s][a * W + e] += dp * q[a * W + e];
            }
        }
    }
    for (int e = 0; e < E_; e++) dq[e] *= (real)SCALE;
    apply_back(dh[t], S_q, M_qb ? S_qb : 0, M_q, dq, h[t], E_, D);
    return loss;
}

/* ------------------------------------------------------------------ LANES sums */

/* tokens [T + 1][B]; the mean loss of these lanes is added to `total` */
static vec lanes(const unsigned char *tokens) {
    vec loss = all(0);
    for (int t = 0; t < T; t++) {
        const unsigned char *here = tokens + t * B;
        for (int d = 0; d < D; d++) {
            EACH_LANE x[t][d][l] = M_embed[here[l] * D + d];
            if (M_position) x[t][d] += M_position[t * D + d];
            dx[t][d] = dh[t][d] = all(0);
        }
        norm(x[t], hat[t], &rate[t], h[t], M_n1w, M_n1b);
        apply(k[t], M_k, M_kb, h[t], E_, D);
        apply(v[t], M_v, M_vb, h[t], E_, D);
        for (int e = 0; e < E_; e++) dk[t][e] = dv[t][e] = all(0);
    }
    for (int t = FIRST; t < T; t++) loss += query(t, tokens + (t + 1) * B);
    for (int t = 0; t < T; t++) {
        ivec seen_ids = ids(tokens + t * B);
        apply_back(dh[t], S_k, M_kb ? S_kb : 0, M_k, dk[t], h[t], E_, D);
        apply_back(dh[t], S_v, M_vb ? S_vb : 0, M_v, dv[t], h[t], E_, D);
        norm_back(hat[t], rate[t], dh[t], M_n1w, M_n1w ? S_n1w : 0, M_n1b ? S_n1b : 0, dx[t]);
        for (int d = 0; d < D; d++) if (G_position) S_position[t * D + d] += dx[t][d];
        for (int c = 0; c < V; c++) {
            for (int d = 0; d < D; d++) S_embed[c * D + d] += pick(seen_ids == c, dx[t][d], all(0));
        }
    }
    return loss;
}

#define GATHER(sums, n, into) \
    if (into) for (int i = 0; i < (n); i++) { \
        real sum = 0; EACH_LANE sum += (sums)[i][l]; \
        ((real *)into)[i] += sum; (sums)[i] = all(0); }

/* mean loss of one batch; grad[P] */
double gradient(const real *theta, const unsigned char *tokens, real *grad) {
    vec loss = all(0);
    matrices(theta);
    for (int b = 0; b < B; b += LANES) loss += lanes(tokens + b);
    GATHER(S_embed, V * D, G_embed) GATHER(S_position, T * D, G_position)
    GATHER(S_q, E_ * D, G_q) GATHER(S_k, E_ * D, G_k) GATHER(S_v, E_ * D, G_v)
    GATHER(S_qb, E_, G_qb) GATHER(S_kb, E_, G_kb) GATHER(S_vb, E_, G_vb)
    GATHER(S_out, D * E_, G_out) GATHER(S_ob, D, G_ob)
    GATHER(S_up, F * D, G_up) GATHER(S_ub, F, G_ub) GATHER(S_gate, F * D, G_gate)
    GATHER(S_gb, F, G_gb) GATHER(S_down, D * F, G_down) GATHER(S_db, D, G_db)
    GATHER(S_head, V * D, G_head) GATHER(S_hb, V, G_hb)
    GATHER(S_n1w, D, G_n1w) GATHER(S_n1b, D, G_n1b) GATHER(S_n2w, D, G_n2w)
    GATHER(S_n2b, D, G_n2b) GATHER(S_nfw, D, G_nfw) GATHER(S_nfb, D, G_nfb)
    for (int i = 0; i < P; i++) grad[i] = 0;
    leaf_gradients(theta, grad);
    double sum = 0;
    EACH_LANE sum += loss[l];
    return sum / ((double)B * (T - FIRST));
}

/* `steps` steps of AdamW; tokens [steps][T + 1][B]; `done` steps came before.
 * theta <- theta (1 - rate decay) - rate m' / (sqrt(v') + eps), with the gradient scaled to
 * norm `clip` at most (0: as it is). Losses before each step go to `losses`. */
void train(real *theta, real *m, real *v2, long done, int steps, const unsigned char *tokens,
           const double *rates, const double *decays, double clip, double beta1, double beta2,
           double eps, double *losses) {
    static real grad[P];
    for (int n = 0; n < steps; n++) {
        losses[n] = gradient(theta, tokens + (long)n * (T + 1) * B, grad);
        double square = 0;
        for (int i = 0; i < P; i++) square += (double)grad[i] * grad[i];
        double size = sqrt(square), scale = clip > 0 && size > clip ? clip / (size + 1e-6) : 1;
        double first = 1 - pow(beta1, done + n + 1), second = 1 - pow(beta2, done + n + 1);
        for (int i = 0; i < P; i++) {
            double g = grad[i] * scale;
            m[i] = (real)(beta1 * m[i] + (1 - beta1) * g);
            v2[i] = (real)(beta2 * v2[i] + (1 - beta2) * g * g);
            double move = (m[i] / first) / (sqrt(v2[i] / second) + eps);
            theta[i] = (real)(theta[i] * (1 - rates[n] * decays[n]) - rates[n] * move);
        }
    }
}
