#ifndef CLINUX_H
#define CLINUX_H
#include "toolbox.h"
#include "netns.h"
#include "btrfs.h"
#include "tree.h"
#include "names.h"
#include "handover.h"
#include "supervisor.h"
#endif
