#include <libpq-fe.h>
#include <sys/eventfd.h> /* wakes a connection's thread; Swift's Glibc module leaves it out */
