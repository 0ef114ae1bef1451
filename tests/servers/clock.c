/* Preloaded: a wall clock that jumps by up to a year, ahead and back, whenever it is read. */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static const long jumps[] = {7200, -7200, 31536000, 0, -31536000};
    static _Atomic unsigned reads;
    int result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += jumps[reads++ % 5];
    return result;
}
